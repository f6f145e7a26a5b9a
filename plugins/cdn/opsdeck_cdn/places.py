"""Where cities lie, so that an edge can be placed by a name: latitude and longitude, to a tenth of a degree."""

from __future__ import annotations

from opsdeck.api import Invalid

# City, airport code (or the hosters' own), latitude, longitude. A tenth of a degree is 11 km, far below what
# addresses tell of visitors.
_TEXT = """
amsterdam ams 52.4 4.9
ashburn iad 39.0 -77.5
athens ath 38.0 23.7
atlanta atl 33.7 -84.4
auckland akl -36.8 174.8
bangalore blr 13.0 77.6
bangkok bkk 13.8 100.5
barcelona bcn 41.4 2.2
beijing pek 39.9 116.4
berlin ber 52.5 13.4
bogota bog 4.7 -74.1
boston bos 42.4 -71.1
brussels bru 50.9 4.4
bucharest otp 44.4 26.1
budapest bud 47.5 19.0
buenos-aires eze -34.6 -58.4
cairo cai 30.0 31.2
cape-town cpt -33.9 18.4
chengdu ctu 30.7 104.1
chicago ord 41.9 -87.6
copenhagen cph 55.7 12.6
dallas dfw 32.8 -96.8
delhi del 28.6 77.2
denver den 39.7 -105.0
dubai dxb 25.2 55.3
dublin dub 53.3 -6.3
falkenstein fsn 50.5 12.4
frankfurt fra 50.1 8.7
gravelines gra 51.0 2.1
guangzhou can 23.1 113.3
hangzhou hgh 30.3 120.2
hanoi han 21.0 105.8
helsinki hel 60.2 24.9
hong-kong hkg 22.3 114.2
honolulu hnl 21.3 -157.9
istanbul ist 41.0 29.0
jakarta cgk -6.2 106.8
johannesburg jnb -26.2 28.0
kuala-lumpur kul 3.1 101.7
kyiv kbp 50.5 30.5
lagos los 6.5 3.4
las-vegas las 36.2 -115.1
lima lim -12.0 -77.0
lisbon lis 38.7 -9.1
london lhr 51.5 -0.1
los-angeles lax 34.1 -118.2
luxembourg lux 49.6 6.1
madrid mad 40.4 -3.7
manila mnl 14.6 121.0
marseille mrs 43.3 5.4
melbourne mel -37.8 145.0
mexico-city mex 19.4 -99.1
miami mia 25.8 -80.2
milan mxp 45.5 9.2
montreal yul 45.5 -73.6
moscow svo 55.8 37.6
mumbai bom 19.1 72.9
nairobi nbo -1.3 36.8
new-york jfk 40.7 -74.0
nuremberg nue 49.5 11.1
osaka kix 34.7 135.5
oslo osl 59.9 10.8
paris cdg 48.9 2.4
perth per -32.0 115.9
phoenix phx 33.4 -112.1
prague prg 50.1 14.4
rome fco 41.9 12.5
salt-lake-city slc 40.8 -111.9
san-francisco sfo 37.8 -122.4
san-jose sjc 37.3 -121.9
santiago scl -33.4 -70.7
sao-paulo gru -23.6 -46.6
seattle sea 47.6 -122.3
seoul icn 37.6 127.0
shanghai sha 31.2 121.5
shenzhen szx 22.5 114.1
singapore sin 1.4 103.8
sofia sof 42.7 23.3
stockholm arn 59.3 18.1
strasbourg sxb 48.6 7.8
sydney syd -33.9 151.2
taipei tpe 25.0 121.6
tallinn tll 59.4 24.8
tel-aviv tlv 32.1 34.8
tokyo nrt 35.7 139.7
toronto yyz 43.7 -79.4
vancouver yvr 49.3 -123.1
vienna vie 48.2 16.4
vilnius vno 54.7 25.3
warsaw waw 52.2 21.0
zurich zrh 47.4 8.5
"""
PLACES: dict[str, tuple[float, float]] = {}
for _line in _TEXT.split("\n"):
    if _line:
        _city, _code, _latitude, _longitude = _line.split()
        PLACES[_city] = PLACES[_code] = (float(_latitude), float(_longitude))


def find(name: str) -> tuple[float, float] | None:
    """Give where a city lies, by its name or airport code; None when it is not listed."""
    return PLACES.get("-".join(name.lower().replace("_", "-").split()))


def place(name: str) -> tuple[float, float]:
    """Give where a city lies. Raises `Invalid`."""
    if found := find(name):
        return found
    raise Invalid(
        f"{name!r} is no city that is known here.", field="region",
        hint="a large city near it, such as frankfurt or fra; or give latitude and longitude",
    )  # fmt: skip
