"""Regions and cities of Georgia as Ward OPS keeps them. Coordinates: GeoNames, CC BY 4.0."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A region (at its administrative centre) or a city. Coordinates are degrees with at most six decimals."""

    name_en: str
    name_ka: str
    latitude: float
    longitude: float


REGIONS: dict[Place, list[Place]] = {
    Place("Adjara", "აჭარა", 41.6408, 41.6306): [
        Place("Batumi", "ბათუმი", 41.6408, 41.6306),
        Place("Chakvi", "ჩაქვი", 41.7253, 41.7328),
        Place("Keda", "ქედა", 41.5995, 41.9395),
        Place("Khelvachauri", "ხელვაჩაური", 41.5845, 41.6731),
        Place("Khulo", "ხულო", 41.6452, 42.3146),
        Place("Kobuleti", "ქობულეთი", 41.8328, 41.7782),
        Place("Makhinjauri", "მახინჯაური", 41.6739, 41.694),
        Place("Shuakhevi", "შუახევი", 41.6257, 42.1861),
    ],
    Place("Guria", "გურია", 41.9234, 42.0052): [
        Place("Chokhatauri", "ჩოხატაური", 42.019, 42.2394),
        Place("Laituri", "ლაითური", 41.9125, 41.9092),
        Place("Lanchkhuti", "ლანჩხუთი", 42.0874, 42.0361),
        Place("Ozurgeti", "ოზურგეთი", 41.9234, 42.0052),
        Place("Ureki", "ურეკი", 41.9956, 41.7786),
    ],
    Place("Imereti", "იმერეთი", 42.2679, 42.6946): [
        Place("Baghdati", "ბაღდათი", 42.0694, 42.825),
        Place("Chiatura", "ჭიათურა", 42.2981, 43.2989),
        Place("Kharagauli", "ხარაგაული", 42.0214, 43.1977),
        Place("Khoni", "ხონი", 42.3254, 42.4224),
        Place("Kulashi", "კულაში", 42.2064, 42.3461),
        Place("Kutaisi", "ქუთაისი", 42.2679, 42.6946),
        Place("Sachkhere", "საჩხერე", 42.3359, 43.4057),
        Place("Samtredia", "სამტრედია", 42.1537, 42.3352),
        Place("Shorapani", "შორაპანი", 42.096, 43.0825),
        Place("Terjola", "თერჯოლა", 42.1806, 42.9776),
        Place("Tkibuli", "ტყიბული", 42.3478, 42.9977),
        Place("Tskaltubo", "წყალტუბო", 42.3286, 42.5981),
        Place("Vani", "ვანი", 42.0841, 42.5119),
        Place("Zestaponi", "ზესტაფონი", 42.1075, 43.0329),
    ],
    Place("Kakheti", "კახეთი", 41.9196, 45.47): [
        Place("Akhmeta", "ახმეტა", 42.035, 45.208),
        Place("Dedoplistskaro", "დედოფლისწყარო", 41.4657, 46.1039),
        Place("Gurjaani", "გურჯაანი", 41.7438, 45.8025),
        Place("Kvareli", "ყვარელი", 41.9549, 45.8172),
        Place("Lagodekhi", "ლაგოდეხი", 41.8275, 46.2749),
        Place("Sagarejo", "საგარეჯო", 41.7369, 45.326),
        Place("Sighnaghi", "სიღნაღი", 41.6192, 45.9223),
        Place("Telavi", "თელავი", 41.9196, 45.47),
        Place("Tsnori", "წნორი", 41.618, 45.979),
    ],
    Place("Kvemo Kartli", "ქვემო ქართლი", 41.5627, 44.9787): [
        Place("Bolnisi", "ბოლნისი", 41.4512, 44.5384),
        Place("Dmanisi", "დმანისი", 41.3318, 44.203),
        Place("Gardabani", "გარდაბანი", 41.4597, 45.0899),
        Place("Kazreti", "კაზრეთი", 41.3816, 44.4197),
        Place("Manglisi", "მანგლისი", 41.697, 44.3845),
        Place("Marneuli", "მარნეული", 41.4876, 44.7985),
        Place("Rustavi", "რუსთავი", 41.5627, 44.9787),
        Place("Tetritskaro", "თეთრიწყარო", 41.5438, 44.4618),
        Place("Tsalka", "წალკა", 41.5982, 44.0911),
    ],
    Place("Mtskheta-Mtianeti", "მცხეთა-მთიანეთი", 41.8451, 44.7188): [
        Place("Dusheti", "დუშეთი", 42.0864, 44.695),
        Place("Gudauri", "გუდაური", 42.478, 44.4762),
        Place("Mtskheta", "მცხეთა", 41.8451, 44.7188),
        Place("Pasanauri", "ფასანაური", 42.3506, 44.6891),
        Place("Stepantsminda", "სტეფანწმინდა", 42.6569, 44.6431),
        Place("Tianeti", "თიანეთი", 42.1099, 44.9678),
    ],
    Place("Racha-Lechkhumi and Kvemo Svaneti", "რაჭა-ლეჩხუმი და ქვემო სვანეთი", 42.5232, 43.1498): [
        Place("Ambrolauri", "ამბროლაური", 42.5232, 43.1498),
        Place("Lentekhi", "ლენტეხი", 42.7889, 42.7223),
        Place("Oni", "ონი", 42.5845, 43.4436),
        Place("Tsageri", "ცაგერი", 42.6453, 42.7691),
    ],
    Place("Samegrelo-Zemo Svaneti", "სამეგრელო-ზემო სვანეთი", 42.5084, 41.868): [
        Place("Abasha", "აბაშა", 42.2045, 42.2036),
        Place("Chkhorotsku", "ჩხოროწყუ", 42.5195, 42.1273),
        Place("Jvari", "ჯვარი", 42.7169, 42.052),
        Place("Khobi", "ხობი", 42.3175, 41.9002),
        Place("Martvili", "მარტვილი", 42.4143, 42.3789),
        Place("Mestia", "მესტია", 43.0438, 42.7237),
        Place("Poti", "ფოთი", 42.1427, 41.6738),
        Place("Senaki", "სენაკი", 42.2708, 42.0633),
        Place("Tsalenjikha", "წალენჯიხა", 42.6086, 42.0669),
        Place("Zugdidi", "ზუგდიდი", 42.5084, 41.868),
    ],
    Place("Samtskhe-Javakheti", "სამცხე-ჯავახეთი", 41.6395, 42.986): [
        Place("Abastumani", "აბასთუმანი", 41.7534, 42.832),
        Place("Adigeni", "ადიგენი", 41.6756, 42.7029),
        Place("Akhalkalaki", "ახალქალაქი", 41.4051, 43.4863),
        Place("Akhaltsikhe", "ახალციხე", 41.6395, 42.986),
        Place("Aspindza", "ასპინძა", 41.5731, 43.2484),
        Place("Bakuriani", "ბაკურიანი", 41.753, 43.5291),
        Place("Borjomi", "ბორჯომი", 41.8469, 43.3971),
        Place("Ninotsminda", "ნინოწმინდა", 41.267, 43.5896),
        Place("Tsaghveri", "წაღვერი", 41.8036, 43.4819),
        Place("Vale", "ვალე", 41.6161, 42.8811),
    ],
    Place("Shida Kartli", "შიდა ქართლი", 41.9853, 44.1129): [
        Place("Agara", "აგარა", 42.0376, 43.8238),
        Place("Gori", "გორი", 41.9853, 44.1129),
        Place("Kareli", "ქარელი", 42.0215, 43.8955),
        Place("Kaspi", "კასპი", 41.9278, 44.4235),
        Place("Khashuri", "ხაშური", 41.9973, 43.599),
        Place("Surami", "სურამი", 42.0243, 43.5556),
    ],
    Place("Tbilisi", "თბილისი", 41.6914, 44.8341): [
        Place("Tbilisi", "თბილისი", 41.6914, 44.8341),
    ],
}
