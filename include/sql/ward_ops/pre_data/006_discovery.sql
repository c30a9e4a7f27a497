-- Discovery of new devices: rules, jobs, credentials and results.

CREATE TABLE discovery_rules (
    id                  uuid DEFAULT gen_random_uuid() NOT NULL,
    name                varchar(200) NOT NULL,
    description         text,
    network_range       varchar(100) NOT NULL,
    enabled             boolean DEFAULT true,
    schedule            varchar(100),
    snmp_discovery      boolean DEFAULT true,
    snmp_communities    jsonb,
    ping_only           boolean DEFAULT false,
    last_run            timestamptz,
    last_devices_found  integer,
    created_at          timestamptz DEFAULT now(),
    updated_at          timestamptz DEFAULT now()
);

CREATE TABLE discovery_results (
    id                   uuid DEFAULT gen_random_uuid() NOT NULL,
    rule_id              uuid NOT NULL,
    ip_address           varchar(45) NOT NULL,
    hostname             varchar(255),
    mac_address          varchar(17),
    vendor               varchar(100),
    device_type          varchar(50),
    snmp_reachable       boolean,
    snmp_version         varchar(10),
    sys_descr            text,
    sys_object_id        varchar(200),
    discovered_at        timestamptz DEFAULT now(),
    added_to_monitoring  boolean DEFAULT false,
    added_at             timestamptz
);

CREATE TABLE discovery_jobs (
    id                  uuid DEFAULT gen_random_uuid() NOT NULL,
    rule_id             uuid NOT NULL,
    status              varchar(50),
    total_ips           integer,
    scanned_ips         integer,
    discovered_devices  integer,
    imported_devices    integer,
    failed_ips          integer,
    started_at          timestamptz,
    completed_at        timestamptz,
    duration_seconds    integer,
    error_message       text,
    scan_summary        jsonb,
    triggered_by        varchar(50),
    triggered_by_user   uuid -- loose: users have integer keys
);

CREATE TABLE discovery_credentials (
    id                      uuid DEFAULT gen_random_uuid() NOT NULL,
    name                    varchar(200) NOT NULL,
    credential_type         varchar(50) NOT NULL,
    community_encrypted     text,
    username                varchar(100),
    auth_protocol           varchar(20),
    auth_key_encrypted      text,
    priv_protocol           varchar(20),
    priv_key_encrypted      text,
    ssh_username            varchar(100),
    ssh_password_encrypted  text,
    ssh_key_encrypted       text,
    success_count           integer DEFAULT 0,
    failure_count           integer DEFAULT 0,
    last_success            timestamptz,
    created_by              uuid, -- loose: users have integer keys
    created_at              timestamptz DEFAULT now()
);
