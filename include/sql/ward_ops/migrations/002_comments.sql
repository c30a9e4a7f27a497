-- Notes for work with the database in psql.

COMMENT ON COLUMN users.dashboard_layout IS 'JSON as text; the application parses it';
COMMENT ON COLUMN users.organization_id IS 'organizations.id, not enforced';
COMMENT ON COLUMN standalone_devices.ip IS 'Not unique: several devices may stand behind one address';
COMMENT ON COLUMN metric_baselines.device_id IS 'standalone_devices.id, not enforced';
COMMENT ON COLUMN ping_results."timestamp" IS 'When the ping was sent; the source kept it as naive UTC';

COMMENT ON TABLE ping_results IS 'About 2.5 million rows a day, kept for 30 days';
COMMENT ON TABLE snmp_credentials IS 'The columns ending in _encrypted hold Fernet tokens of the application';
COMMENT ON TABLE discovery_credentials IS 'The columns ending in _encrypted hold Fernet tokens of the application';
