-- NOT VALID: new rows are checked from now on, the loaded rows later, after the orphan check has named every orphan.
-- SET NULL where a row can exist without its parent, CASCADE where it is a part of it.

ALTER TABLE alert_history ADD CONSTRAINT alert_history_device_id_fkey
    FOREIGN KEY (device_id) REFERENCES standalone_devices (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE alert_history ADD CONSTRAINT alert_history_rule_id_fkey
    FOREIGN KEY (rule_id) REFERENCES alert_rules (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE alert_rules ADD CONSTRAINT alert_rules_branch_id_fkey
    FOREIGN KEY (branch_id) REFERENCES branches (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE alert_rules ADD CONSTRAINT alert_rules_device_id_fkey
    FOREIGN KEY (device_id) REFERENCES standalone_devices (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE alert_rules ADD CONSTRAINT alert_rules_monitoring_item_id_fkey
    FOREIGN KEY (monitoring_item_id) REFERENCES monitoring_items (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE discovery_jobs ADD CONSTRAINT discovery_jobs_rule_id_fkey
    FOREIGN KEY (rule_id) REFERENCES discovery_rules (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE discovery_results ADD CONSTRAINT discovery_results_rule_id_fkey
    FOREIGN KEY (rule_id) REFERENCES discovery_rules (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE georgian_cities ADD CONSTRAINT georgian_cities_region_id_fkey
    FOREIGN KEY (region_id) REFERENCES georgian_regions (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE monitoring_items ADD CONSTRAINT monitoring_items_device_id_fkey
    FOREIGN KEY (device_id) REFERENCES standalone_devices (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE monitoring_items ADD CONSTRAINT monitoring_items_template_id_fkey
    FOREIGN KEY (template_id) REFERENCES monitoring_templates (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE network_topology ADD CONSTRAINT network_topology_source_device_id_fkey
    FOREIGN KEY (source_device_id) REFERENCES standalone_devices (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE network_topology ADD CONSTRAINT network_topology_target_device_id_fkey
    FOREIGN KEY (target_device_id) REFERENCES standalone_devices (id) ON DELETE SET NULL NOT VALID;
ALTER TABLE snmp_credentials ADD CONSTRAINT snmp_credentials_device_id_fkey
    FOREIGN KEY (device_id) REFERENCES standalone_devices (id) ON DELETE CASCADE NOT VALID;
ALTER TABLE standalone_devices ADD CONSTRAINT standalone_devices_branch_id_fkey
    FOREIGN KEY (branch_id) REFERENCES branches (id) ON DELETE SET NULL NOT VALID;
