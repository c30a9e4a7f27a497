-- Primary keys and unique constraints, built on the loaded tables: half the time of loading into existing ones.

ALTER TABLE alert_history         ADD CONSTRAINT alert_history_pkey PRIMARY KEY (id);
ALTER TABLE alert_rules           ADD CONSTRAINT alert_rules_pkey PRIMARY KEY (id);
ALTER TABLE branches              ADD CONSTRAINT branches_pkey PRIMARY KEY (id);
ALTER TABLE discovery_credentials ADD CONSTRAINT discovery_credentials_pkey PRIMARY KEY (id);
ALTER TABLE discovery_jobs        ADD CONSTRAINT discovery_jobs_pkey PRIMARY KEY (id);
ALTER TABLE discovery_results     ADD CONSTRAINT discovery_results_pkey PRIMARY KEY (id);
ALTER TABLE discovery_rules       ADD CONSTRAINT discovery_rules_pkey PRIMARY KEY (id);
ALTER TABLE georgian_cities       ADD CONSTRAINT georgian_cities_pkey PRIMARY KEY (id);
ALTER TABLE georgian_regions      ADD CONSTRAINT georgian_regions_pkey PRIMARY KEY (id);
ALTER TABLE metric_baselines      ADD CONSTRAINT metric_baselines_pkey PRIMARY KEY (id);
ALTER TABLE monitored_hostgroups  ADD CONSTRAINT monitored_hostgroups_pkey PRIMARY KEY (id);
ALTER TABLE monitoring_items      ADD CONSTRAINT monitoring_items_pkey PRIMARY KEY (id);
ALTER TABLE monitoring_profiles   ADD CONSTRAINT monitoring_profiles_pkey PRIMARY KEY (id);
ALTER TABLE monitoring_templates  ADD CONSTRAINT monitoring_templates_pkey PRIMARY KEY (id);
ALTER TABLE mtr_results           ADD CONSTRAINT mtr_results_pkey PRIMARY KEY (id);
ALTER TABLE network_topology      ADD CONSTRAINT network_topology_pkey PRIMARY KEY (id);
ALTER TABLE organizations         ADD CONSTRAINT organizations_pkey PRIMARY KEY (id);
ALTER TABLE performance_baselines ADD CONSTRAINT performance_baselines_pkey PRIMARY KEY (id);
ALTER TABLE ping_results          ADD CONSTRAINT ping_results_pkey PRIMARY KEY (id);
ALTER TABLE setup_wizard_state    ADD CONSTRAINT setup_wizard_state_pkey PRIMARY KEY (id);
ALTER TABLE snmp_credentials      ADD CONSTRAINT snmp_credentials_pkey PRIMARY KEY (id);
ALTER TABLE standalone_devices    ADD CONSTRAINT standalone_devices_pkey PRIMARY KEY (id);
ALTER TABLE system_config         ADD CONSTRAINT system_config_pkey PRIMARY KEY (id);
ALTER TABLE traceroute_results    ADD CONSTRAINT traceroute_results_pkey PRIMARY KEY (id);
ALTER TABLE users                 ADD CONSTRAINT users_pkey PRIMARY KEY (id);

ALTER TABLE branches              ADD CONSTRAINT branches_name_key UNIQUE (name);
ALTER TABLE georgian_cities       ADD CONSTRAINT georgian_cities_name_en_key UNIQUE (name_en);
ALTER TABLE georgian_regions      ADD CONSTRAINT georgian_regions_name_en_key UNIQUE (name_en);
ALTER TABLE monitored_hostgroups  ADD CONSTRAINT monitored_hostgroups_groupid_key UNIQUE (groupid);
ALTER TABLE monitoring_profiles   ADD CONSTRAINT monitoring_profiles_name_key UNIQUE (name);
ALTER TABLE monitoring_templates  ADD CONSTRAINT monitoring_templates_name_key UNIQUE (name);
ALTER TABLE organizations         ADD CONSTRAINT organizations_subdomain_key UNIQUE (subdomain);
ALTER TABLE performance_baselines ADD CONSTRAINT performance_baselines_device_ip_key UNIQUE (device_ip);
ALTER TABLE system_config         ADD CONSTRAINT system_config_key_key UNIQUE (key);
ALTER TABLE users                 ADD CONSTRAINT users_email_key UNIQUE (email);
ALTER TABLE users                 ADD CONSTRAINT users_username_key UNIQUE (username);
