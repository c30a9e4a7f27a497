#!/bin/bash
# The target's database, and passwords of two roles; the postgres image runs this at its first start. The service
# target-roles gives the roles their rights.
set -euo pipefail
: "${CUTOVER_ROLE_PASSWORD:?is not set}" "${WARD_OPS_ROLE_PASSWORD:?is not set}"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv pipeline CUTOVER_ROLE_PASSWORD
\getenv application WARD_OPS_ROLE_PASSWORD
CREATE ROLE ward_ops PASSWORD :'application';
CREATE ROLE cutover PASSWORD :'pipeline';
CREATE DATABASE ward_flux ENCODING 'UTF8' TEMPLATE template0;
SQL
