-- The 11 regions (mkhare), each at its administrative centre. Added only where the source has none: its rows stay
-- unchanged. Coordinates: GeoNames, CC BY 4.0.

INSERT INTO georgian_regions (name_en, name_ka, latitude, longitude)
SELECT region.name_en, region.name_ka, region.latitude, region.longitude
FROM (VALUES
    ('Adjara',                            'აჭარა',                         41.6408, 41.6306),
    ('Guria',                             'გურია',                         41.9234, 42.0052),
    ('Imereti',                           'იმერეთი',                       42.2679, 42.6946),
    ('Kakheti',                           'კახეთი',                        41.9196, 45.4700),
    ('Kvemo Kartli',                      'ქვემო ქართლი',                  41.5627, 44.9787),
    ('Mtskheta-Mtianeti',                 'მცხეთა-მთიანეთი',               41.8451, 44.7188),
    ('Racha-Lechkhumi and Kvemo Svaneti', 'რაჭა-ლეჩხუმი და ქვემო სვანეთი', 42.5232, 43.1498),
    ('Samegrelo-Zemo Svaneti',            'სამეგრელო-ზემო სვანეთი',        42.5084, 41.8680),
    ('Samtskhe-Javakheti',                'სამცხე-ჯავახეთი',               41.6395, 42.9860),
    ('Shida Kartli',                      'შიდა ქართლი',                   41.9853, 44.1129),
    ('Tbilisi',                           'თბილისი',                       41.6914, 44.8341)
) AS region (name_en, name_ka, latitude, longitude)
WHERE NOT EXISTS (SELECT FROM georgian_regions);
