"""The file of policies: what it gives, and what is refused with the line."""

import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.policy_file import UnusablePolicies, parse_policies, read_policies
from replay_build_service.policy_schema import PolicyPart, json_schema
from replay_build_service.policy_values import FeatureState, GPUs, Resources, Toleration, VOPolicy
from replay_build_service.rulings import Terms
from tests.requirements import ROOT

pytestmark = pytest.mark.hub_independent

GB = 1024**3

WHOLE = """
defaults:
  memory: {guarantee: 2G, limit: 4G}
  cpu: {guarantee: 0.5, limit: 2}
  servers_per_person: 1
vos:
  vo.notebooks.egi.eu:
    enrolment_url: https://aai.egi.eu/enrol
  vo.gpu.example.org:admins:
    memory: {limit: 16G}
    gpus: {count: 2}
    node_selector: {pool: gpu}
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    servers: 40
    builds_per_person: 2
    servers_per_repository: 30
    servers_of_repositories: {"https://github.com/EGI-Federation/Course.git": 40}
    maximum_age: 8h
    features: {token: preselected, datahub: forbidden}
    repositories:
      allowed: [github.com/egi-federation/*, git.example.org/**]
      denied: [git.example.org/old/**]
    managers: ["vo.gpu.example.org:role=manager", "user:ada@egi.eu"]
    banner: |
      Maintenance on Monday.

      From 8 to 9.
    terms: {version: 1.10, text: Be kind.}
    community: {name: "Climate & Co", logo: https://climate.example.org/logo.svg}
  plain:
"""


def policy(vo: str, text: str = WHOLE) -> VOPolicy:
    return next(one for one in parse_policies(text).policies if one.vo == vo)


def told(text: str) -> str:
    with pytest.raises(UnusablePolicies) as raised:
        parse_policies(dedent(text).strip("\n"), "policies.yaml")
    return str(raised.value)


def one_vo(lines: str) -> str:
    """Those lines as the policy of a VO; its first is line 3."""
    return "vos:\n  vo.one:\n" + "".join(f"    {line}\n" for line in dedent(lines).strip("\n").splitlines())


def test_a_policy_says_all_that_is_in_the_file() -> None:
    found = policy("vo.gpu.example.org:admins")
    assert found.resources == Resources(None, 16 * GB, 0.5, 2, GPUs("nvidia.com/gpu", 2))
    assert found.placement.node_selector == (("pool", "gpu"),)
    assert found.placement.tolerations == (Toleration("nvidia.com/gpu", "Exists", None, "NoSchedule"),)
    limits = found.limits
    assert (limits.servers_per_person, limits.servers, limits.builds_per_person, limits.servers_per_repository) == (
        1,
        40,
        2,
        30,
    )
    assert [(one.text, most) for one, most in limits.servers_of_repositories] == [
        ("github.com/egi-federation/course", 40)
    ]
    assert found.maximum_age == timedelta(hours=8)
    assert found.features == {"token": FeatureState.PRESELECTED, "datahub": FeatureState.FORBIDDEN}
    assert [one.text for one in found.allowed] == ["github.com/egi-federation/*", "git.example.org/**"]
    assert [one.text for one in found.denied] == ["git.example.org/old/**"]
    assert found.managers == ("vo.gpu.example.org:role=manager", "user:ada@egi.eu")
    assert found.banner == "Maintenance on Monday.\n\nFrom 8 to 9."
    assert found.terms == Terms("1.10", "Be kind.")
    assert found.community is not None
    assert found.community.name == "Climate & Co"


def test_what_a_vo_does_not_say_is_as_the_defaults_say_and_what_it_says_stands_whole() -> None:
    assert policy("vo.notebooks.egi.eu").resources == Resources(2 * GB, 4 * GB, 0.5, 2)
    assert policy("vo.gpu.example.org:admins").resources.memory_guarantee is None
    assert policy("plain").limits.servers_per_person == 1
    assert policy("plain").limits.servers_per_repository == 100


def test_the_hubs_configuration_gets_who_may_enter_who_manages_and_their_role() -> None:
    found = parse_policies(WHOLE)
    assert found.permitted_vos == {
        "vo.notebooks.egi.eu": "https://aai.egi.eu/enrol",
        "vo.gpu.example.org:admins": "",
        "plain": "",
    }
    assert found.vo_managers == {"vo.gpu.example.org:admins": ["vo.gpu.example.org:role=manager", "user:ada@egi.eu"]}
    (role,) = found.load_roles()
    assert role["groups"] == ["vo.gpu.example.org:admins:managers"]
    assert role["scopes"] == ["access:services!service=replay"]
    assert parse_policies("vos: {plain: }").load_roles() == []


@pytest.mark.parametrize(
    ("lines", "line", "sentence"),
    [
        ("memory: {guarantee: 8G, limit: 4G}", 3, "“memory” guarantees more (8G) than its limit (4G)."),
        ("cpu:\n  guarantee: 2\n  limit: 0.5", 4, "“cpu” guarantees more (2) than its limit (0.5)."),
        ("memory: {limit: 0}", 3, "“memory” has the limit 0, with which nothing runs."),
        ("memory: {limit: -1}", 3, "a size reads like 2G or 512M"),
        ("memory: {limit: 4GB}", 3, "a size reads like 2G or 512M"),
        ("memory: {limit: true}", 3, "a size reads like 2G or 512M"),
        ("memory: 4G", 3, "“memory”: "),
        ("cpu: {limit: -0.5}", 3, "“limit” is -0.5, and must be at least 0."),
        ("cpu: {limit: two}", 3, "“limit” must be a number, and is “two”."),
        ("banner: hello\nmemroy: {}", 4, "There is no key “memroy” here. These there are: enrolment_url, memory, cpu,"),
        ("memory: {most: 4G}", 3, "There is no key “most” here. These there are: guarantee, limit."),
        ("tolerations:\n  - operator: Exists\n  - {operater: Exists}", 5, "There is no key “operater” here."),
        ("tolerations: [{operator: Exists, value: x}]", 3, "A toleration with the operator Exists has no value."),
        ("tolerations: [{effect: NoSchedule}]", 3, "A toleration without a key needs the operator Exists."),
        (
            "features: {token: maybe}",
            3,
            "“maybe” is no state of the feature “token”. The states are: forbidden, offered, ",
        ),
        ("features: {token: yes}", 3, "is no state of the feature “token”"),
        ("features:\n  tokn: offered", 4, "There is no feature “tokn”. These there are: datahub, "),
        ("servers: -1", 3, "“servers” is -1, and must be at least 1."),
        ("servers: 0", 3, "“servers” is 0, and must be at least 1."),
        ("servers: 1.5", 3, "“servers” must be a number, and is “1.5”."),
        ("servers: many", 3, "“servers” must be a number, and is “many”."),
        ("servers: true", 3, "“servers” must be a number, and is “True”."),
        ("servers: 2\nservers_per_person: 3", 4, "“servers_per_person” is 3, and all members together may have 2"),
        (
            "servers: 20\nservers_of_repositories:\n  github.com/a/b: 30",
            5,
            "may have 30 servers, and all members together 20",
        ),
        ("servers_of_repositories:\n  github.com/a: 30", 4, "names an owner and no repository"),
        ("servers_of_repositories: {github.com/a/b: 0}", 3, "is 0, and must be at least 1."),
        ("gpus: {}", 3, "“count” is missing."),
        ("gpus: {count: 1, resource: 'a b'}", 3, "“resource”: "),
        ("maximum_age: 8", 3, "a time reads like 8h, 90m or 2d"),
        ("maximum_age: 0h", 3, "a time reads like 8h, 90m or 2d"),
        ("maximum_age: -1h", 3, "a time reads like 8h, 90m or 2d"),
        ("repositories: {allowed: []}", 3, "“allowed” is empty, so nothing could run."),
        (
            "repositories:\n  allowed:\n    - github.com/a/c\n    - https://github.com/A/B.git\n  denied:\n    - gh/a/b",
            6,
            "“github.com/a/b” is allowed here and denied in line 8 (“github.com/a/b”).",
        ),
        (
            "repositories:\n  allowed: [github.com/a/b]\n  denied:\n    - github.com/a/*",
            4,
            "“github.com/a/b” is allowed here and denied in line 6 (“github.com/a/*”).",
        ),
        ("repositories:\n  denied:\n    - github.com/a/b\n    - github.com", 6, "write github.com/**."),
        ("managers: ['']", 3, "a manager is a requirement"),
        ("managers: ['user:']", 3, "a manager is a requirement"),
        ("managers: ['a\\tb', \"a\\nb\"]", 3, "a manager is a requirement"),
        ("enrolment_url: javascript:alert(1)", 3, "an address reads like https://example.org/enrol"),
        ("community: {name: x, logo: http://example.org/a.svg}", 3, "a logo is an https:// address"),
        ("community: {name: x, logo: //evil.example/a.svg}", 3, "a logo is an https:// address"),
        ("community: {name: x, logo: 'https://a.example; script-src *'}", 3, "a logo is an https:// address"),
        ("community: {name: x, logo: /hub/../x.svg}", 3, "a logo is an https:// address"),
        ("community: {logo: /hub/static/logo.svg}", 3, "“name” is missing."),
        ("terms: {version: '1', text: ''}", 3, "“text” is empty."),
        ("terms: {text: hello}", 3, "“version” is missing."),
        ('banner: "turn \\u202e around"', 3, "this holds characters that cannot be seen"),
    ],
)
def test_a_contradiction_is_told_with_its_line(lines: str, line: int, sentence: str) -> None:
    said = told(one_vo(lines))
    assert said.startswith(f"policies.yaml, line {line}: "), said
    assert sentence in said


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("", 1, "The file is empty."),
        ("- vo.one", 1, "A file of policies has “vos:”, and below it each VO by its name."),
        ("hello", 1, "A file of policies has “vos:”"),
        ("defaults: {}", 1, "“vos” is missing."),
        ("vos: {}", 1, "“vos” is empty."),
        ("vos:\n  a: {}\nvoes: {}", 3, "There is no key “voes” here. These there are: defaults, vos."),
        ("defaults:\n  memroy: {}\nvos: {a: {}}", 2, "There is no key “memroy” here."),
        ("vos:\n  a: {}\n  b: {}\n  a: {}", 4, "“a” is here a second time; the first is in line 2."),
        ("vos:\n  a:\n    servers: 1\n    servers: 2", 4, "“servers” is here a second time; the first is in line 3."),
        ("vos:\n  a: {servers: 1", 2, "This is no YAML: "),
        ("vos:\n  a\x08: {}", 2, "it holds a control character"),
        ("vos:\n\ta: {}", 2, "This is no YAML: "),
        ("vos: &all\n  a: *all", 1, "contains itself"),
        ("vos: !!python/object:os.system {}", 1, "“vos”"),
        ("vos:\n  ? [a, b]\n  : {}", 2, "A key is a word"),
        ("a: " + "[" * 400 + "]" * 400, 1, "nested too deeply"),
        ("vos:\n  ' a': {}", 2, "neither spaces at its ends"),
        ("vos:\n  ../../etc/passwd: {}", 2, "cannot be the name of a VO"),
        ("vos:\n  /etc/passwd: {}", 2, "cannot be the name of a VO"),
        ("vos:\n  <b>vo</b>: {}", 2, "cannot be the name of a VO"),
        ('vos:\n  "a\\u202eb": {}', 2, "characters that cannot be seen"),
        ("vos:\n  " + "a" * 192 + ": {}", 2, "at most 191 characters"),
        ("vos:\n  a: {managers: ['user:ada']}\n  a:managers: {}", 3, "as the group of the managers of a"),
        (
            "defaults: {memory: {guarantee: 8G}}\nvos:\n  a: {}\n  b:\n    memory: {guarantee: 8G, limit: 4G}",
            5,
            "“memory”",
        ),
    ],
)
def test_a_file_that_is_none_is_told_with_its_line(text: str, line: int, sentence: str) -> None:
    said = told(text)
    assert said.startswith(f"policies.yaml, line {line}: "), said
    assert sentence in said


def test_every_fault_is_told_each_once_in_the_order_of_lines() -> None:
    said = told("defaults:\n  servers: 0\nvos:\n  a: {features: {token: no}}\n  b: {cpu: {limit: x}}").splitlines()
    assert [re.search(r"line (\d+)", one)[1] for one in said] == ["2", "4", "5"]  # pyright: ignore[reportOptionalSubscript]


def test_two_thousand_patterns_that_contradict_each_other_are_read() -> None:
    allowed = ", ".join(f"github.com/a{number}/b" for number in range(2000))
    denied = ", ".join(f"github.com/c{number}/*" for number in range(2000))
    found = policy("vo.one", one_vo(f"repositories:\n  allowed: [{allowed}]\n  denied: [{denied}]"))
    assert len(found.allowed) == len(found.denied) == 2000
    assert "denied in line 5" in told(
        one_vo(f"repositories:\n  allowed: [{allowed}, github.com/c1999/x]\n  denied: [{denied}]")
    )


@given(st.text(max_size=300))
def test_any_text_gives_policies_or_a_sentence(text: str) -> None:
    with suppress(UnusablePolicies):
        parse_policies(text)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnusablePolicies, match=r"cannot be read from .*: No such file"):
        read_policies(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnusablePolicies, match="no text in UTF-8"):
        read_policies(tmp_path / "bytes.yaml")


def test_the_schema_that_is_published_is_the_one_that_is_used() -> None:
    assert json.loads((ROOT / "docs" / "policies.schema.json").read_text()) == json_schema()


def test_the_page_names_every_key() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    for name in PolicyPart.model_fields:
        assert f"`{name}`" in page, name


def test_the_pages_example_can_be_used() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]
    found = parse_policies(example).policies
    assert [one.vo for one in found] == ["vo.notebooks.egi.eu", "vo.climate.example.org"]
    assert set(PolicyPart.model_fields) - set(yaml.safe_load(example)["vos"]["vo.climate.example.org"]) == {
        "servers_per_person",
        "servers_per_repository",
    }


def test_the_ready_policy_is_egi_replays() -> None:
    found = parse_policies((ROOT / "docs" / "policies-egi-replay.yaml").read_text())
    assert len(found.policies) == 11
    assert {one.vo for one in found.policies} >= {"vo.notebooks.egi.eu", "auger", "vo.cessda.eduteams.org"}
    for one in found.policies:
        assert (one.resources.memory_guarantee, one.resources.memory_limit) == (2 * GB, 4 * GB)
        assert one.limits.servers_per_repository == 100
        assert one.maximum_age is None
