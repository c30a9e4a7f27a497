-- The tables of Ward OPS as its models and its hand-made migrations left them in SQLite. Types are declared as they stand
-- there: UUID, JSON, DATETIME, TIMESTAMP and BOOLEAN have NUMERIC affinity. Lengths and foreign keys are not enforced.

CREATE TABLE users (
    id INTEGER NOT NULL,
    username VARCHAR(50) NOT NULL,
    email VARCHAR(100) NOT NULL,
    full_name VARCHAR(100),
    hashed_password VARCHAR(255) NOT NULL,
    role VARCHAR(16),
    organization_id INTEGER,
    is_superuser BOOLEAN,
    region VARCHAR(50),
    branches VARCHAR(500),
    is_active BOOLEAN,
    created_at DATETIME,
    last_login DATETIME,
    theme_preference VARCHAR(10),
    language VARCHAR(10),
    timezone VARCHAR(50),
    notifications_enabled BOOLEAN,
    dashboard_layout VARCHAR(1000),
    PRIMARY KEY (id)
);

CREATE TABLE organizations (
    id INTEGER NOT NULL,
    name VARCHAR(255) NOT NULL,
    subdomain VARCHAR(100),
    zabbix_url VARCHAR(500) NOT NULL,
    zabbix_user VARCHAR(255) NOT NULL,
    zabbix_password VARCHAR(255) NOT NULL,
    monitored_groups JSON,
    logo_url VARCHAR(500),
    primary_color VARCHAR(7),
    is_active BOOLEAN,
    is_setup_complete BOOLEAN,
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id),
    UNIQUE (subdomain)
);

CREATE TABLE system_config (
    id INTEGER NOT NULL,
    "key" VARCHAR(100) NOT NULL,
    value TEXT,
    description VARCHAR(500),
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE setup_wizard_state (
    id INTEGER NOT NULL,
    step_1_welcome BOOLEAN,
    step_2_zabbix BOOLEAN,
    step_3_groups BOOLEAN,
    step_4_admin BOOLEAN,
    step_5_complete BOOLEAN,
    is_complete BOOLEAN,
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE branches (
    id VARCHAR(36) NOT NULL,
    name VARCHAR(200) NOT NULL,
    display_name VARCHAR(200) NOT NULL,
    region VARCHAR(100),
    branch_code VARCHAR(10),
    address TEXT,
    is_active BOOLEAN,
    device_count INTEGER,
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE standalone_devices (
    id UUID NOT NULL,
    name VARCHAR(200) NOT NULL,
    ip VARCHAR(45) NOT NULL,
    hostname VARCHAR(255),
    vendor VARCHAR(100),
    device_type VARCHAR(100),
    model VARCHAR(100),
    location VARCHAR(200),
    description TEXT,
    enabled BOOLEAN NOT NULL,
    discovered_at DATETIME,
    last_seen DATETIME,
    tags JSON,
    custom_fields JSON,
    branch_id VARCHAR(36),
    normalized_name VARCHAR(200),
    device_subtype VARCHAR(100),
    floor_info VARCHAR(50),
    unit_number INTEGER,
    original_name VARCHAR(200),
    ssh_port INTEGER,
    ssh_username VARCHAR(100),
    ssh_enabled BOOLEAN,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(branch_id) REFERENCES branches (id)
);

CREATE TABLE monitored_hostgroups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    groupid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    display_name TEXT,
    is_active BOOLEAN DEFAULT 1,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE georgian_regions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name_en TEXT NOT NULL UNIQUE,
    name_ka TEXT,
    latitude REAL NOT NULL,
    longitude REAL NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE georgian_cities (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name_en TEXT NOT NULL UNIQUE,
    name_ka TEXT,
    region_id INTEGER NOT NULL,
    latitude REAL NOT NULL,
    longitude REAL NOT NULL,
    is_active BOOLEAN DEFAULT 1,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (region_id) REFERENCES georgian_regions (id)
);

CREATE TABLE ping_results (
    id INTEGER NOT NULL,
    device_ip VARCHAR(50) NOT NULL,
    device_name VARCHAR(255),
    packets_sent INTEGER,
    packets_received INTEGER,
    packet_loss_percent INTEGER,
    min_rtt_ms INTEGER,
    avg_rtt_ms INTEGER,
    max_rtt_ms INTEGER,
    is_reachable BOOLEAN,
    timestamp DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE traceroute_results (
    id INTEGER NOT NULL,
    device_ip VARCHAR(50) NOT NULL,
    device_name VARCHAR(255),
    hop_number INTEGER NOT NULL,
    hop_ip VARCHAR(50),
    hop_hostname VARCHAR(255),
    latency_ms INTEGER,
    packet_loss INTEGER,
    timestamp DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE mtr_results (
    id INTEGER NOT NULL,
    device_ip VARCHAR(50) NOT NULL,
    device_name VARCHAR(255),
    hop_number INTEGER NOT NULL,
    hop_ip VARCHAR(50),
    hop_hostname VARCHAR(255),
    packets_sent INTEGER,
    packets_received INTEGER,
    packet_loss_percent INTEGER,
    latency_avg INTEGER,
    latency_min INTEGER,
    latency_max INTEGER,
    latency_stddev INTEGER,
    timestamp DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE performance_baselines (
    id INTEGER NOT NULL,
    device_ip VARCHAR(50) NOT NULL,
    device_name VARCHAR(255),
    baseline_latency_avg INTEGER,
    baseline_latency_stddev INTEGER,
    baseline_packet_loss INTEGER,
    latency_warning_threshold INTEGER,
    latency_critical_threshold INTEGER,
    packet_loss_threshold INTEGER,
    samples_count INTEGER,
    last_calculated DATETIME,
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id),
    UNIQUE (device_ip)
);

CREATE TABLE metric_baselines (
    id UUID NOT NULL,
    device_id UUID NOT NULL,
    metric_name VARCHAR(100) NOT NULL,
    avg_value INTEGER,
    min_value INTEGER,
    max_value INTEGER,
    std_dev INTEGER,
    time_period VARCHAR(20),
    hour_of_day INTEGER,
    day_of_week INTEGER,
    sample_count INTEGER,
    last_updated DATETIME,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE monitoring_profiles (
    id UUID NOT NULL,
    name VARCHAR(100) NOT NULL,
    mode VARCHAR(10) NOT NULL,
    is_active BOOLEAN NOT NULL,
    description TEXT,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE monitoring_templates (
    id UUID NOT NULL,
    name VARCHAR(100) NOT NULL,
    description TEXT,
    vendor VARCHAR(100),
    device_types JSON,
    items JSON,
    triggers JSON,
    is_default BOOLEAN,
    created_by UUID,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE monitoring_items (
    id UUID NOT NULL,
    device_id UUID NOT NULL,
    template_id UUID,
    oid_name VARCHAR(100) NOT NULL,
    oid VARCHAR(200) NOT NULL,
    interval INTEGER NOT NULL,
    value_type VARCHAR(20),
    units VARCHAR(20),
    enabled BOOLEAN NOT NULL,
    last_poll DATETIME,
    last_value TEXT,
    last_error TEXT,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(device_id) REFERENCES standalone_devices (id),
    FOREIGN KEY(template_id) REFERENCES monitoring_templates (id)
);

CREATE TABLE snmp_credentials (
    id UUID NOT NULL,
    device_id UUID NOT NULL,
    version VARCHAR(10) NOT NULL,
    community_encrypted TEXT,
    username VARCHAR(100),
    auth_protocol VARCHAR(20),
    auth_key_encrypted TEXT,
    priv_protocol VARCHAR(20),
    priv_key_encrypted TEXT,
    security_level VARCHAR(20),
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(device_id) REFERENCES standalone_devices (id)
);

CREATE TABLE alert_rules (
    id UUID NOT NULL,
    device_id UUID,
    branch_id VARCHAR(36),
    name VARCHAR(200) NOT NULL,
    description TEXT,
    expression VARCHAR(500) NOT NULL,
    severity VARCHAR(20) NOT NULL,
    notification_channels JSON,
    notification_recipients JSON,
    device_group VARCHAR(100),
    monitoring_item_id UUID,
    enabled BOOLEAN NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(device_id) REFERENCES standalone_devices (id),
    FOREIGN KEY(branch_id) REFERENCES branches (id),
    FOREIGN KEY(monitoring_item_id) REFERENCES monitoring_items (id)
);

CREATE TABLE alert_history (
    id UUID NOT NULL,
    rule_id UUID NOT NULL,
    device_id UUID,
    rule_name VARCHAR(200),
    severity VARCHAR(8) NOT NULL,
    message TEXT NOT NULL,
    value VARCHAR(100),
    threshold VARCHAR(500),
    triggered_at DATETIME NOT NULL,
    acknowledged BOOLEAN,
    acknowledged_by UUID,
    acknowledged_at DATETIME,
    resolved_at DATETIME,
    notifications_sent JSON,
    created_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(rule_id) REFERENCES alert_rules (id),
    FOREIGN KEY(device_id) REFERENCES standalone_devices (id)
);

CREATE TABLE discovery_rules (
    id UUID NOT NULL,
    name VARCHAR(200) NOT NULL,
    description TEXT,
    network_range VARCHAR(100) NOT NULL,
    enabled BOOLEAN,
    schedule VARCHAR(100),
    snmp_discovery BOOLEAN,
    snmp_communities JSON,
    ping_only BOOLEAN,
    last_run DATETIME,
    last_devices_found INTEGER,
    created_at DATETIME,
    updated_at DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE discovery_results (
    id UUID NOT NULL,
    rule_id UUID NOT NULL,
    ip_address VARCHAR(45) NOT NULL,
    hostname VARCHAR(255),
    mac_address VARCHAR(17),
    vendor VARCHAR(100),
    device_type VARCHAR(50),
    snmp_reachable BOOLEAN,
    snmp_version VARCHAR(10),
    sys_descr TEXT,
    sys_object_id VARCHAR(200),
    discovered_at DATETIME,
    added_to_monitoring BOOLEAN,
    added_at DATETIME,
    PRIMARY KEY (id),
    FOREIGN KEY(rule_id) REFERENCES discovery_rules (id)
);

CREATE TABLE discovery_jobs (
    id UUID NOT NULL,
    rule_id UUID NOT NULL,
    status VARCHAR(50),
    total_ips INTEGER,
    scanned_ips INTEGER,
    discovered_devices INTEGER,
    imported_devices INTEGER,
    failed_ips INTEGER,
    started_at DATETIME,
    completed_at DATETIME,
    duration_seconds INTEGER,
    error_message TEXT,
    scan_summary JSON,
    triggered_by VARCHAR(50),
    triggered_by_user UUID,
    PRIMARY KEY (id),
    FOREIGN KEY(rule_id) REFERENCES discovery_rules (id)
);

CREATE TABLE discovery_credentials (
    id UUID NOT NULL,
    name VARCHAR(200) NOT NULL,
    credential_type VARCHAR(50) NOT NULL,
    community_encrypted TEXT,
    username VARCHAR(100),
    auth_protocol VARCHAR(20),
    auth_key_encrypted TEXT,
    priv_protocol VARCHAR(20),
    priv_key_encrypted TEXT,
    ssh_username VARCHAR(100),
    ssh_password_encrypted TEXT,
    ssh_key_encrypted TEXT,
    success_count INTEGER,
    failure_count INTEGER,
    last_success DATETIME,
    created_by UUID,
    created_at DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE network_topology (
    id UUID NOT NULL,
    source_ip VARCHAR(45) NOT NULL,
    source_device_id UUID,
    target_ip VARCHAR(45) NOT NULL,
    target_device_id UUID,
    connection_type VARCHAR(50),
    interface_name VARCHAR(100),
    target_interface VARCHAR(100),
    vlan_id INTEGER,
    discovered_via VARCHAR(50),
    is_active BOOLEAN,
    last_seen DATETIME,
    first_discovered DATETIME,
    PRIMARY KEY (id),
    FOREIGN KEY(source_device_id) REFERENCES standalone_devices (id),
    FOREIGN KEY(target_device_id) REFERENCES standalone_devices (id)
);
