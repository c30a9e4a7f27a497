-- The monitor's query on the largest table: the newest ping of every device, one index look-up each, however large the table.

WITH newest AS (
    SELECT device.id AS device_id, ping."timestamp"
    FROM standalone_devices AS device
    LEFT JOIN LATERAL (
        SELECT result."timestamp"
        FROM ping_results AS result
        WHERE result.device_ip = device.ip AND result."timestamp" IS NOT NULL
        ORDER BY result."timestamp" DESC
        LIMIT 1
    ) AS ping ON true
)

SELECT
    'ping_results_newest_per_device' AS name,
    count("timestamp") > 0 OR NOT EXISTS (SELECT FROM ping_results) AS passed,
    format(
        '%s of %s devices have pings, the newest of %s',
        count("timestamp"),
        count(*),
        coalesce(to_char(max("timestamp") AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), 'never')
    ) AS found
FROM newest
UNION ALL
SELECT
    'ping_results_index_is_usable',
    coalesce(bool_or(index.indisvalid AND index.indisready), false),
    coalesce(string_agg(index.indexrelid::regclass::text, ', ' ORDER BY index.indexrelid::regclass::text), 'no such index')
FROM pg_index AS index
WHERE
    index.indrelid = 'ping_results'::regclass
    AND pg_get_indexdef(index.indexrelid, 1, true) = 'device_ip'
    AND pg_get_indexdef(index.indexrelid, 2, true) = '"timestamp"';
