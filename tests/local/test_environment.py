import base64
import stat

from notify_project.local.environment import describe_ports, make_secrets, read_env_file, write_env_file
from notify_project.local.ports import Ports


def test_env_file_comes_back_as_written_and_is_private(tmp_path):
    path = tmp_path / "env"
    values = {"SECRET_KEY": "a=b#c", "DATABASE_URL": "postgres://u:p@127.0.0.1:1/n", "EMPTY": ""}
    write_env_file(path, values)
    assert read_env_file(path) == values
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_env_file_of_others_may_quote_and_comment(tmp_path):
    path = tmp_path / "credentials.env"
    path.write_text("# account\nexport A='one two'\nB=\"3\"\n\nnot a line\nC=4\n")
    assert read_env_file(path) == {"A": "one two", "B": "3", "C": "4"}


def test_missing_env_file_is_empty(tmp_path):
    assert read_env_file(tmp_path / "none") == {}


def test_secrets_are_new_each_time_and_the_pii_key_has_32_bytes():
    one, other = make_secrets(), make_secrets()
    assert all(one[name] != other[name] for name in one)
    number, key = one["PII_KEYS"].split(":")
    assert number == "1"
    assert len(base64.b64decode(key)) == 32


def test_ports_have_the_names_that_are_read_back():
    ports = Ports(web=1, flower=2, sandbox=3, sandbox_http=4, sandbox_smtp=5)
    assert Ports.from_environment(describe_ports(ports)) == ports
