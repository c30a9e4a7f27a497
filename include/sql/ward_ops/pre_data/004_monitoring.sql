-- Monitored items, alert rules and alerts.

CREATE TABLE monitoring_profiles (
    id           uuid DEFAULT gen_random_uuid() NOT NULL,
    name         varchar(100) NOT NULL,
    mode         varchar(10) NOT NULL CONSTRAINT monitoring_profiles_mode_check
                 CHECK (mode IN ('zabbix', 'standalone', 'hybrid')),
    is_active    boolean DEFAULT false NOT NULL,
    description  text,
    created_at   timestamptz DEFAULT now() NOT NULL,
    updated_at   timestamptz DEFAULT now() NOT NULL
);

CREATE TABLE monitoring_templates (
    id            uuid DEFAULT gen_random_uuid() NOT NULL,
    name          varchar(100) NOT NULL,
    description   text,
    vendor        varchar(100),
    device_types  jsonb,
    items         jsonb,
    triggers      jsonb,
    is_default    boolean DEFAULT false,
    created_by    uuid, -- loose: users have integer keys
    created_at    timestamptz DEFAULT now() NOT NULL,
    updated_at    timestamptz DEFAULT now() NOT NULL
);

CREATE TABLE monitoring_items (
    id           uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id    uuid NOT NULL,
    template_id  uuid,
    oid_name     varchar(100) NOT NULL,
    oid          varchar(200) NOT NULL,
    "interval"   integer DEFAULT 60 NOT NULL, -- seconds
    value_type   varchar(20),
    units        varchar(20),
    enabled      boolean DEFAULT true NOT NULL,
    last_poll    timestamptz,
    last_value   text,
    last_error   text,
    created_at   timestamptz DEFAULT now() NOT NULL,
    updated_at   timestamptz DEFAULT now() NOT NULL
);

CREATE TABLE alert_rules (
    id                       uuid DEFAULT gen_random_uuid() NOT NULL,
    device_id                uuid,
    branch_id                uuid,
    name                     varchar(200) NOT NULL,
    description              text,
    expression               varchar(500) NOT NULL,
    severity                 varchar(20) NOT NULL,
    notification_channels    jsonb,
    notification_recipients  jsonb,
    device_group             varchar(100),
    monitoring_item_id       uuid,
    enabled                  boolean DEFAULT true NOT NULL,
    created_at               timestamptz DEFAULT now() NOT NULL,
    updated_at               timestamptz DEFAULT now() NOT NULL
);

CREATE TABLE alert_history (
    id                  uuid DEFAULT gen_random_uuid() NOT NULL,
    rule_id             uuid NOT NULL,
    device_id           uuid,
    rule_name           varchar(200),
    severity            varchar(8) NOT NULL,
    message             text NOT NULL,
    value               varchar(100),
    threshold           varchar(500),
    triggered_at        timestamptz DEFAULT now() NOT NULL,
    acknowledged        boolean DEFAULT false,
    acknowledged_by     uuid, -- loose: users have integer keys
    acknowledged_at     timestamptz,
    resolved_at         timestamptz,
    notifications_sent  jsonb,
    created_at          timestamptz DEFAULT now() NOT NULL
);
