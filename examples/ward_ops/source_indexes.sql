-- The indexes of Ward OPS in SQLite; made after the rows are in, which is faster.

CREATE UNIQUE INDEX ix_users_username ON users (username);
CREATE UNIQUE INDEX ix_users_email ON users (email);
CREATE UNIQUE INDEX ix_system_config_key ON system_config ("key");
CREATE INDEX ix_ping_results_device_ip ON ping_results (device_ip);
CREATE INDEX ix_ping_results_timestamp ON ping_results (timestamp);
