import json
import string
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rest_framework.exceptions import ValidationError

from metrics.serializers import HEARTBEAT_SCHEMA, parse_heartbeat

REQUIRED = ["server_id", "hostname", "timestamp"]
COUNTERS = ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"]
OPTIONAL_COUNTERS = ["rx_errors", "tx_errors", "rx_dropped", "tx_dropped"]
NOT_COUNTERS = [-1, 1.5, 1.0, True, None, "12", "invalid", [], {}, 2**63, 2**64 - 1]


def errors(body: Any) -> Any:
    with pytest.raises(ValidationError) as caught:
        parse_heartbeat(body)
    return caught.value.detail


def interface_errors(body: Any) -> Any:
    return errors(body)["network_interfaces"]


def test_the_golden_heartbeat_is_taken_to_the_last_byte(golden):
    report = parse_heartbeat(golden)
    assert report.server_id == "nas-01"
    assert report.uptime == 1209600.512
    assert [interface["name"] for interface in report.network_interfaces] == [
        interface["name"] for interface in golden["network_interfaces"]
    ]
    assert report.network_interfaces[1]["tx_bytes"] == 1152921504606846977


def test_the_three_required_fields_are_enough():
    report = parse_heartbeat({"server_id": "a", "hostname": "a", "timestamp": "2026-03-01T06:30:00Z"})
    assert report.interval == 60
    assert report.boot_id == ""
    assert (report.uptime, report.sent_uptime, report.os_info, report.server_guid) == (None, None, None, None)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_required_field_is_named(heartbeat, name: str):
    assert errors(heartbeat(**{name: ...})) == {name: ["This field is required."]}


@pytest.mark.parametrize("name", ["name", *COUNTERS, "is_up"])
def test_a_missing_field_of_an_interface_is_named(heartbeat, interface, name: str):
    found = interface_errors(heartbeat(network_interfaces=[interface(), interface(**{"name": "eth1", name: ...})]))
    assert found == [{}, {name: ["This field is required."]}]


@pytest.mark.parametrize("value", NOT_COUNTERS)
@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_that_is_none_is_named(heartbeat, interface, name: str, value: Any):
    (found,) = interface_errors(heartbeat(network_interfaces=[interface(**{name: value})]))
    assert list(found) == [name]


@pytest.mark.parametrize("value", [value for value in NOT_COUNTERS if value is not None])
@pytest.mark.parametrize("name", OPTIONAL_COUNTERS)
def test_an_optional_counter_that_is_none_is_named(heartbeat, interface, name: str, value: Any):
    (found,) = interface_errors(heartbeat(network_interfaces=[interface(**{name: value})]))
    assert list(found) == [name]


def test_every_wrong_field_is_named_at_once(heartbeat, interface):
    wrong = heartbeat(hostname="", uptime=-1, network_interfaces=[interface(rx_bytes=-1, is_up="yes")])
    found = errors(wrong)
    assert set(found) == {"hostname", "uptime", "network_interfaces"}
    assert set(found["network_interfaces"][0]) == {"rx_bytes", "is_up"}


def test_an_error_never_repeats_the_value(heartbeat, interface):
    wrong = heartbeat(hostname="s3cret\n", boot_id=["s3cret"], network_interfaces=[interface("s3cret\x00")])
    assert "s3cret" not in str(errors(wrong))


@pytest.mark.parametrize("value", [0, 2**63 - 1])
def test_counters_reach_from_0_to_63_bits(heartbeat, interface, value: int):
    report = parse_heartbeat(heartbeat(network_interfaces=[interface(**dict.fromkeys(COUNTERS, value))]))
    assert [report.network_interfaces[0][name] for name in COUNTERS] == [value] * 4


@pytest.mark.parametrize("body", [[], None, "a", 1, True])
def test_a_body_that_is_no_object_is_refused(body: Any):
    assert errors(body)


@pytest.mark.parametrize("server_id", ["A B", "", "a" * 101, "../x", "nas\n", "NAS", 7, None, ["nas"]])
def test_a_server_id_is_a_slug(heartbeat, server_id: Any):
    assert list(errors(heartbeat(server_id=server_id))) == ["server_id"]


@pytest.mark.parametrize("hostname", ["", " ", "a" * 256, "a\x00b", "a\nb", "\ud800", 7, None])
def test_a_hostname_is_printable_text_up_to_255(heartbeat, hostname: Any):
    assert list(errors(heartbeat(hostname=hostname))) == ["hostname"]


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-03-01T06:30:00", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
        "1969-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "2026-03-01", "noon", "", 1772346600, None, True,
    ],
)  # fmt: skip
def test_a_timestamp_is_a_date_of_our_time_with_its_zone(heartbeat, timestamp: Any):
    assert list(errors(heartbeat(timestamp=timestamp))) == ["timestamp"]


@pytest.mark.parametrize(
    "timestamp", ["2026-03-01T06:30:00Z", "2026-03-01T06:30:00+00:00", "2026-03-01T12:00:00.000000+05:30"]
)
def test_a_timestamp_is_kept_in_utc(heartbeat, timestamp: str):
    assert parse_heartbeat(heartbeat(timestamp=timestamp)).timestamp.isoformat() == "2026-03-01T06:30:00+00:00"


@pytest.mark.parametrize("name", ["uptime", "sent_uptime"])
@pytest.mark.parametrize(
    "value", [-0.001, 1e11, pytest.param(10**400, id="400 digits"), float("nan"), float("inf"), True, "1", []]
)
def test_an_uptime_is_a_number_of_seconds(heartbeat, name: str, value: Any):
    assert list(errors(heartbeat(**{name: value}))) == [name]


@pytest.mark.parametrize("value", [0, 0.5, 86_401, "60", True, float("nan")])
def test_an_interval_is_between_a_second_and_a_day(heartbeat, value: Any):
    assert list(errors(heartbeat(interval=value))) == ["interval"]


@pytest.mark.parametrize("value", ["b" * 65, "b" * 1_000_000, "a\x00", 7, ["b"]])
def test_a_boot_id_is_text_up_to_64(heartbeat, value: Any):
    assert list(errors(heartbeat(boot_id=value))) == ["boot_id"]


@pytest.mark.parametrize(
    "value", ["3f2b8c1e-7d54-1a96-9b0e-51c6d2a7f830", "3f2b8c1e", "", 7, "urn:uuid:x", "3f2b8c1e" * 1000]
)
def test_a_guid_is_a_uuid_of_version_4(heartbeat, value: Any):
    assert list(errors(heartbeat(server_guid=value))) == ["server_guid"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("os_info", []), ("os_info", {"kernel": 6}), ("os_info", {"version": "a" * 256}), ("os_info", "Debian"),
        ("agent_stats", []), ("agent_stats", {"sent": "1"}), ("agent_stats", {"sent": -1}), ("metrics", []),
        ("metrics", {"uptime_seconds": -1}), ("agent_version", "1" * 65), ("agent_version", 1),
    ],
)  # fmt: skip
def test_an_optional_field_of_the_wrong_kind_is_named(heartbeat, name: str, value: Any):
    assert list(errors(heartbeat(**{name: value}))) == [name]


@pytest.mark.parametrize(
    "name", ["server_guid", "agent_version", "os_info", "metrics", "boot_id", "uptime", "interval", "agent_stats"]
)
def test_null_is_the_same_as_absent_for_an_optional_field(heartbeat, name: str):
    assert parse_heartbeat(heartbeat(**{name: None})) == parse_heartbeat(heartbeat(**{name: ...}))


def test_the_uptime_of_the_older_agents_is_used_where_there_is_no_other(heartbeat):
    metrics = {"uptime_seconds": 77, "cpu_percent": 3.5}
    assert parse_heartbeat(heartbeat(uptime=..., metrics=metrics)).uptime == 77
    assert parse_heartbeat(heartbeat(uptime=5.5, metrics=metrics)).uptime == 5.5


def test_unknown_fields_are_ignored(heartbeat, interface):
    extra = {"is_admin": True, "server": 7, "received_at": "never", "id": []}
    report = parse_heartbeat(heartbeat(**extra, network_interfaces=[interface(**extra)]))
    assert report == parse_heartbeat(heartbeat())


@pytest.mark.parametrize("interfaces", [{}, None, "eth0", 1])
def test_interfaces_that_are_no_list_are_refused(heartbeat, interfaces: Any):
    assert list(errors(heartbeat(network_interfaces=interfaces))) == ["network_interfaces"]


def test_no_interfaces_and_not_reported_are_two_things(heartbeat):
    assert parse_heartbeat(heartbeat(network_interfaces=[])).network_interfaces == []
    assert parse_heartbeat(heartbeat(network_interfaces=...)).network_interfaces is None


@pytest.mark.parametrize("item", [None, "eth0", 1, []])
def test_an_interface_that_is_no_object_is_refused(heartbeat, item: Any):
    assert interface_errors(heartbeat(network_interfaces=[item])) == [{"non_field_errors": ["Expected an object."]}]


def test_256_interfaces_are_taken_and_257_are_not(heartbeat, interface):
    many = [interface(f"veth{number}") for number in range(257)]
    assert len(parse_heartbeat(heartbeat(network_interfaces=many[:256])).network_interfaces) == 256
    assert errors(heartbeat(network_interfaces=many)) == {"network_interfaces": ["At most 256 interfaces."]}


def test_the_same_interface_twice_is_refused(heartbeat, interface):
    found = interface_errors(heartbeat(network_interfaces=[interface(), interface("eth1"), interface()]))
    assert found == [{}, {}, {"name": ["This name is in the list twice."]}]


@pytest.mark.parametrize(
    "name", ["", " ", "e" * 65, "eth\x00", "\ud800", "eth\n0", "\x1b[31m", "eth\u202e0", "eth\u200b", 7, None, ["eth0"]]
)
def test_a_name_is_printable_text_up_to_64(heartbeat, interface, name: Any):
    (found,) = interface_errors(heartbeat(network_interfaces=[interface(name)]))
    assert list(found) == ["name"]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>", '"onx=1', "a<b>c", "=HYPERLINK(..)", "../../x", "{{7*7}}", "'; DROP TABLE",
        "e" * 64, "wlan-ä", "网卡0", "eth0.20", "br-3f2b8c1e", "eth0:1", "a b",
    ],
)  # fmt: skip
def test_an_odd_name_is_a_name(heartbeat, interface, name: str):
    assert parse_heartbeat(heartbeat(network_interfaces=[interface(name)])).network_interfaces[0]["name"] == name


@pytest.mark.parametrize("value", [0, 1, "true", "up", None, []])
def test_is_up_is_true_or_false(heartbeat, interface, value: Any):
    (found,) = interface_errors(heartbeat(network_interfaces=[interface(is_up=value)]))
    assert list(found) == ["is_up"]


@pytest.mark.parametrize("speed", [-1, 0])
def test_a_speed_the_kernel_does_not_know_is_not_known(heartbeat, interface, speed: int):
    report = parse_heartbeat(heartbeat(network_interfaces=[interface(speed_mbps=speed)]))
    assert "speed_mbps" not in report.network_interfaces[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operstate", "UP"), ("operstate", 1), ("speed_mbps", -2), ("speed_mbps", 2.5), ("speed_mbps", "1000"),
        ("mtu", -1), ("mac", "a" * 65), ("ifindex", -1), ("ifindex", 2**31 + 1), ("kind", "nic"), ("kind", []),
        ("master", "m" * 65), ("carrier_changes", -1), ("addresses", "10.0.0.1"), ("addresses", [1]),
        ("addresses", ["10.0.0.1"] * 65), ("addresses", [""]),
    ],
)  # fmt: skip
def test_a_detail_of_the_wrong_kind_is_named(heartbeat, interface, name: str, value: Any):
    (found,) = interface_errors(heartbeat(network_interfaces=[interface(**{name: value})]))
    assert list(found) == [name]


# The schema that /api/schema shows, and parse_heartbeat, say the same.
# JSON Schema takes 1.0 for an integer, has no word for "printable" and knows no unique names: these are left out.

VALIDATOR = Draft202012Validator(HEARTBEAT_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
EDGES = [0, 1, 64, 86_400, 10**9, 2**31, 2**32, 10**10, 2**63 - 1]
numbers = st.one_of(
    st.builds(int.__add__, st.sampled_from(EDGES), st.integers(-2, 2)),
    st.integers(-10, 2**64),
    st.floats(-1e12, 1e12).filter(lambda value: not value.is_integer()),
)
lengths = st.one_of(st.integers(0, 3), st.integers(62, 66), st.integers(98, 102), st.integers(253, 257))
texts = st.one_of(
    st.text(string.ascii_letters + string.digits + "-.:/<=", max_size=12),
    lengths.map(lambda length: "x" * length),
    st.sampled_from(["up", "down", "unknown", "bond", "veth", "tun", "physical", "nas_01", "2026-03-01T06:30:00Z"]),
)
lists = st.lists(texts, max_size=3) | st.integers(63, 65).map(lambda length: ["::1"] * length)
values = st.one_of(numbers, texts, st.booleans(), lists, st.dictionaries(texts, numbers, max_size=2))
BY_TYPE = {"integer": numbers, "number": numbers, "string": texts, "array": lists, "boolean": st.booleans()}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A good body with one value changed or taken away, at any depth."""
    body = deepcopy(GOOD)
    path = draw(st.sampled_from([(), ("os_info",), ("agent_stats",), ("metrics",), ("network_interfaces", 0)]))
    part, schema = body, HEARTBEAT_SCHEMA
    for step in path:
        part, schema = part[step], schema["items"] if step == 0 else schema["properties"][step]
    # jsonschema is not told here how to check a date-time.
    name = draw(st.sampled_from(sorted({*schema["properties"], "other"} - {"timestamp"})))
    fitting = BY_TYPE.get(schema["properties"].get(name, {}).get("type"), values)
    changed = draw(st.one_of(st.just(...), fitting, fitting, values))
    part.pop(name, None)
    if changed is not ...:
        part[name] = changed
    return body


GOOD = {
    "server_id": "nas",
    "hostname": "nas",
    "timestamp": "2026-03-01T06:30:00Z",
    "os_info": {"kernel": "6.1.0"},
    "agent_stats": {"sent": 3},
    "metrics": {},
    "network_interfaces": [
        {**dict.fromkeys([*COUNTERS, *OPTIONAL_COUNTERS], 7), "name": f"eth{number}", "is_up": True}
        for number in range(2)
    ],
}


def is_parsed(body: dict[str, Any]) -> bool:
    try:
        parse_heartbeat(body)
    except ValidationError:
        return False
    return True


@settings(max_examples=1000)
@given(bodies())
def test_the_schema_and_the_parser_agree(body: dict[str, Any]):
    assert VALIDATOR.is_valid(body) == is_parsed(body), [error.message for error in VALIDATOR.iter_errors(body)]


def test_the_golden_heartbeat_fits_the_schema(golden):
    VALIDATOR.validate(golden)


def test_the_schema_itself_is_sound_and_plain_json():
    Draft202012Validator.check_schema(json.loads(json.dumps(HEARTBEAT_SCHEMA)))
