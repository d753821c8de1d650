import io
import json
import signal
import socket
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta

import pycurl
import pytest
from cryptography import x509

from apps.providers.sandbox.certificates import ensure_certificates
from notify_project.local.ports import free_port
from tests.providers.sandbox.conftest import run_command, wait_until


def snapshot(data_dir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.name != "out"}


class TestInit:
    def test_repeating_it_changes_nothing(self, make_process):
        process = make_process()
        before = snapshot(process.data_dir)
        arguments = ["--data-dir", str(process.data_dir), "--port", str(process.port)]
        arguments += ["--smtp-port", str(process.smtp_port)]
        base = json.loads(before["secrets.json"])["webhook_base"]
        assert run_command("init", *arguments, "--webhook-base", base).returncode == 0
        assert snapshot(process.data_dir) == before

    def test_another_port_keeps_the_keys(self, make_process):
        process = make_process()
        before = snapshot(process.data_dir)
        assert run_command("init", "--data-dir", str(process.data_dir), "--port", "7777").returncode == 0
        after = snapshot(process.data_dir)
        assert after["ca.pem"] == before["ca.pem"]
        assert b"FCM_BASE_URL=https://127.0.0.1:7777/fcm\n" in after["credentials.env"]
        account, earlier = (json.loads(files["fcm-service-account.json"]) for files in (after, before))
        assert account["token_uri"] == "https://127.0.0.1:7777/fcm/token"
        assert account["private_key"] == earlier["private_key"]
        same = {"TWILIO_AUTH_TOKEN", "SENDGRID_API_KEY", "SENDGRID_WEBHOOK_PUBLIC_KEY"}
        for line in before["credentials.env"].decode().splitlines():
            if line.partition("=")[0] in same:
                assert line in after["credentials.env"].decode().splitlines()

    def test_secrets_are_the_owners_alone(self, make_process):
        data_dir = make_process().data_dir
        open_files = {
            path.name for path in data_dir.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077 and path.is_file()
        }
        assert open_files == {"ca.pem", "server.pem"}
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700

    def test_damaged_files_are_made_anew(self, make_process):
        process = make_process()
        (process.data_dir / "server-key.pem").write_text("nonsense")
        (process.data_dir / "secrets.json").write_text("[]")
        arguments = ["--data-dir", str(process.data_dir), "--port", str(process.port)]
        assert run_command("init", *arguments).returncode == 0
        process.start()
        assert process.stop() == 0

    def test_certificates_are_renewed_before_they_expire(self, tmp_path):
        now = datetime(2026, 1, 1, tzinfo=UTC)
        ensure_certificates(tmp_path, now=now)
        first = snapshot(tmp_path)
        ensure_certificates(tmp_path, now=now + timedelta(days=360))
        assert snapshot(tmp_path) == first
        ensure_certificates(tmp_path, now=now + timedelta(days=370))  # of 397 days, less 30 to spare
        renewed = snapshot(tmp_path)
        assert renewed["ca.pem"] == first["ca.pem"]
        assert renewed["server.pem"] != first["server.pem"]
        ensure_certificates(tmp_path, now=now + timedelta(days=3_640))
        assert snapshot(tmp_path)["ca.pem"] != first["ca.pem"]

    def test_the_certificate_names_the_loopback(self, make_process):
        certificate = x509.load_pem_x509_certificate((make_process().data_dir / "server.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "localhost" in names.get_values_for_type(x509.DNSName)
        assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


class TestServe:
    def test_needs_init(self, tmp_path):
        done = run_command("serve", "--data-dir", str(tmp_path), "--port", str(free_port()))
        assert done.returncode == 2
        assert "run `python -m apps.providers.sandbox init` first" in done.stderr

    def test_a_taken_port_is_one_clear_line(self, shared_process):
        arguments = ["--data-dir", str(shared_process.data_dir), "--port", str(shared_process.port)]
        done = run_command("serve", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"sandbox: port {shared_process.port} on 127.0.0.1 is taken")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_it_at_once_although_clients_stay_connected(self, make_process, number):
        process = make_process().start()
        client = process.client
        client.push_with_ack("d-1")
        client.set_faults("fcm", {"latency_ms": 60_000})
        with socket.create_connection(("127.0.0.1", process.http_port)):
            started = time.monotonic()
            assert process.stop(number) == 0
            assert time.monotonic() - started < 2
        assert len(process.read_output().splitlines()) == 1, process.read_output()
        assert len((process.data_dir / "ledger.jsonl").read_bytes().splitlines()) == 1

    def test_ledger_and_tokens_survive_a_kill(self, make_process):
        process = make_process().start()
        process.client.push_with_ack("d-1")
        wait_until(lambda: (process.data_dir / "ledger.jsonl").read_bytes())
        process.stop(signal.SIGKILL)
        process.start()
        assert process.client.push_with_ack("d-2").status_code == 200  # with the access token of before
        assert [(entry["n"], entry["delivery_id"]) for entry in process.client.ledger()] == [(1, "d-1"), (2, "d-2")]
        assert process.stop() == 0


class TestProtocols:
    @pytest.mark.parametrize(
        ("version", "name"), [(pycurl.CURL_HTTP_VERSION_2TLS, "2"), (pycurl.CURL_HTTP_VERSION_1_1, "1.1")]
    )
    def test_tls_with_http1_and_http2(self, sandbox, version, name):
        handle, body = pycurl.Curl(), io.BytesIO()
        handle.setopt(pycurl.URL, f"{sandbox.url}/_sandbox/health")
        handle.setopt(pycurl.CAINFO, str(sandbox.data_dir / "ca.pem"))
        handle.setopt(pycurl.NOPROXY, "*")
        handle.setopt(pycurl.HTTP_VERSION, version)
        handle.setopt(pycurl.WRITEDATA, body)
        handle.perform()
        used = handle.getinfo(pycurl.INFO_HTTP_VERSION)
        handle.close()
        assert json.loads(body.getvalue()) == {"status": "ok"}
        assert used == {"2": pycurl.CURL_HTTP_VERSION_2_0, "1.1": pycurl.CURL_HTTP_VERSION_1_1}[name]

    def test_an_unknown_authority_is_refused(self, shared_process):
        context = ssl.create_default_context()
        with (
            socket.create_connection(("127.0.0.1", shared_process.port)) as connection,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(connection, server_hostname="127.0.0.1")

    def test_an_enormous_body_is_refused_unread(self, sandbox):
        headers = {"Content-Length": str(33 * 1024 * 1024)}
        with socket.create_connection(("127.0.0.1", int(sandbox.http_url.rpartition(":")[2]))) as connection:
            lines = ["POST /_sandbox/reset HTTP/1.1", "Host: 127.0.0.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            assert b" 413 " in connection.makefile("rb").readline()
