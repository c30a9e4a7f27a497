-- The device list of the first page: there are devices, and every device that names a branch finds it.

SELECT
    'devices_exist' AS name,
    count(*) > 0 AS passed,
    format('%s devices, %s enabled', count(*), count(*) FILTER (WHERE enabled)) AS found
FROM standalone_devices
UNION ALL
SELECT
    'devices_find_their_branches',
    count(*) = count(branch.id),
    format('%s of %s devices with a branch find it', count(branch.id), count(*))
FROM standalone_devices AS device
LEFT JOIN branches AS branch ON branch.id = device.branch_id
WHERE device.branch_id IS NOT NULL;
