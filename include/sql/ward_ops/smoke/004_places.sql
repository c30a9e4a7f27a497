-- The map: every city lies in a region.

SELECT
    'cities_find_their_regions' AS name,
    count(*) > 0 AND count(*) = count(region.id) AS passed,
    format('%s of %s cities in %s regions', count(region.id), count(*), count(DISTINCT region.id)) AS found
FROM georgian_cities AS city
LEFT JOIN georgian_regions AS region ON region.id = city.region_id;
