-- Indexes of the monitor's queries, and one on every referencing column of a foreign key: without it each delete of a
-- referenced row, and the validation of the foreign key, would read the whole referencing table.

CREATE INDEX ping_results_device_ip_timestamp_idx ON ping_results (device_ip, "timestamp" DESC);
CREATE INDEX ping_results_timestamp_idx ON ping_results ("timestamp");
CREATE INDEX traceroute_results_device_ip_timestamp_idx ON traceroute_results (device_ip, "timestamp" DESC);
CREATE INDEX mtr_results_device_ip_timestamp_idx ON mtr_results (device_ip, "timestamp" DESC);
CREATE INDEX metric_baselines_device_id_metric_name_idx ON metric_baselines (device_id, metric_name);

CREATE INDEX standalone_devices_branch_id_idx ON standalone_devices (branch_id);
CREATE INDEX standalone_devices_device_type_idx ON standalone_devices (device_type);
CREATE INDEX standalone_devices_enabled_idx ON standalone_devices (enabled);

CREATE INDEX alert_history_rule_id_triggered_at_idx ON alert_history (rule_id, triggered_at DESC);
CREATE INDEX alert_history_device_id_triggered_at_idx ON alert_history (device_id, triggered_at DESC);
CREATE INDEX alert_history_open_idx ON alert_history (triggered_at DESC) WHERE resolved_at IS NULL;

CREATE INDEX alert_rules_branch_id_idx ON alert_rules (branch_id);
CREATE INDEX alert_rules_device_id_idx ON alert_rules (device_id);
CREATE INDEX alert_rules_monitoring_item_id_idx ON alert_rules (monitoring_item_id);
CREATE INDEX discovery_jobs_rule_id_idx ON discovery_jobs (rule_id);
CREATE INDEX discovery_results_rule_id_idx ON discovery_results (rule_id);
CREATE INDEX georgian_cities_region_id_idx ON georgian_cities (region_id);
CREATE INDEX monitoring_items_device_id_idx ON monitoring_items (device_id);
CREATE INDEX monitoring_items_template_id_idx ON monitoring_items (template_id);
CREATE INDEX network_topology_source_device_id_idx ON network_topology (source_device_id);
CREATE INDEX network_topology_target_device_id_idx ON network_topology (target_device_id);
CREATE INDEX snmp_credentials_device_id_idx ON snmp_credentials (device_id);
