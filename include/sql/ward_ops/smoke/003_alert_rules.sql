-- Alert evaluation starts from the enabled rules: each finds the device, branch and item that it names, and its expression.

SELECT
    'alert_rules_find_what_they_name' AS name,
    count(*) FILTER (
        WHERE (rule.device_id IS NOT NULL AND device.id IS NULL)
        OR (rule.branch_id IS NOT NULL AND branch.id IS NULL)
        OR (rule.monitoring_item_id IS NOT NULL AND item.id IS NULL)
    ) = 0 AS passed,
    format('%s rules, %s enabled', count(*), count(*) FILTER (WHERE rule.enabled)) AS found
FROM alert_rules AS rule
LEFT JOIN standalone_devices AS device ON device.id = rule.device_id
LEFT JOIN branches AS branch ON branch.id = rule.branch_id
LEFT JOIN monitoring_items AS item ON item.id = rule.monitoring_item_id
UNION ALL
SELECT
    'open_alerts_find_their_rules',
    count(*) = count(rule.id),
    format('%s open alerts', count(*))
FROM alert_history AS alert
LEFT JOIN alert_rules AS rule ON rule.id = alert.rule_id
WHERE alert.resolved_at IS NULL;
