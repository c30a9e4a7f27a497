-- The retention task deletes one day of pings at a time, 2.5 of 75 million rows. With the default of 20 % the table
-- would carry a week of dead rows before autovacuum runs; with these values it runs after every such delete.

ALTER TABLE ping_results SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);
