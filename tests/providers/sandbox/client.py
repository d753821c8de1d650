"""Calls to the sandbox as a provider's client makes them, on plain HTTP: nothing of the product is used."""

import json
import time
import uuid
from pathlib import Path

import jwt
import requests

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MESSAGING_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


class SandboxClient:
    def __init__(self, data_dir: Path, port: int, http_port: int) -> None:
        self.data_dir = data_dir
        self.url = f"https://127.0.0.1:{port}"
        self.http_url = f"http://127.0.0.1:{http_port}"
        lines = (data_dir / "credentials.env").read_text().splitlines()
        self.env = dict(line.split("=", 1) for line in lines)
        self.service_account = json.loads((data_dir / "fcm-service-account.json").read_text())
        self.session = requests.Session()
        self.session.verify = str(data_dir / "ca.pem")
        self.session.trust_env = False
        self._access_token = ""

    def close(self) -> None:
        self.session.close()

    def is_up(self) -> bool:
        try:
            return self.session.get(f"{self.url}/_sandbox/health", timeout=2).ok
        except requests.ConnectionError:
            return False

    # Control

    def control(self, method: str, path: str, content: object = None) -> object:
        response = self.session.request(method, f"{self.http_url}/_sandbox/{path}", json=content, timeout=5)
        assert response.status_code == 200, response.text
        return response.json()

    def set_faults(self, provider: str, *rules: dict) -> None:
        self.control("PUT", f"faults/{provider}", list(rules))

    def set_receipts(self, provider: str, **knobs: object) -> None:
        self.control("PUT", f"receipts/{provider}", knobs)

    def ledger(self, after: int = 0) -> list[dict]:
        response = self.session.get(f"{self.http_url}/_sandbox/ledger", params={"after": after}, timeout=5)
        return [json.loads(line) for line in response.text.splitlines()]

    def inbox(self, after: int = 0) -> list[dict]:
        return self.control("GET", f"inbox?after={after}")["messages"]

    def stats(self) -> dict:
        return self.control("GET", "stats")

    # FCM

    def assertion(self, key: str | None = None, **changes: object) -> str:
        now = int(time.time())
        claims = {
            "iss": self.service_account["client_email"],
            "aud": self.service_account["token_uri"],
            "iat": now,
            "exp": now + 3600,
            "scope": MESSAGING_SCOPE,
            **changes,
        }
        return jwt.encode(claims, key or self.service_account["private_key"], "RS256")

    def request_token(self, assertion: str, grant_type: str = GRANT_TYPE) -> requests.Response:
        form = {"grant_type": grant_type, "assertion": assertion}
        return self.session.post(self.service_account["token_uri"], data=form, timeout=5)

    def bearer(self) -> dict[str, str]:
        if not self._access_token:
            self._access_token = self.request_token(self.assertion()).json()["access_token"]
        return {"Authorization": f"Bearer {self._access_token}"}

    def push(self, token: str = "device-1", *, envelope: dict | None = None, headers: dict | None = None, **message):
        """Sends ``{"message": {"token": token, **message}}``, or ``envelope`` as it is."""
        if envelope is None:
            envelope = {"message": {"token": token, **message}}
        return self.session.post(
            f"{self.env['FCM_BASE_URL']}/v1/projects/demo-project/messages:send",
            data=json.dumps(envelope).encode(),
            headers={"Content-Type": "application/json", **(self.bearer() if headers is None else headers)},
            timeout=5,
        )

    def push_with_ack(self, delivery_id: str, token: str = "device-1", ack: str = "ack-token"):
        return self.push(token, data={"notify_delivery_id": delivery_id, "notify_ack": ack})

    # Twilio

    @property
    def messages_url(self) -> str:
        return f"{self.env['TWILIO_BASE_URL']}/2010-04-01/Accounts/{self.env['TWILIO_ACCOUNT_SID']}/Messages.json"

    def text(self, to: str = "+15005551234", *, auth: tuple[str, str] | None = None, **form: str | None):
        form = {"To": to, "From": self.env["TWILIO_FROM"], "Body": "Hello", **form}
        credentials = auth or (self.env["TWILIO_ACCOUNT_SID"], self.env["TWILIO_AUTH_TOKEN"])
        return self.session.post(self.messages_url, data=form, auth=credentials, timeout=5)

    # SendGrid

    def mail(self, *addresses: str, http_headers: dict | None = None, **changes: object):
        """One personalization per address, each with a delivery id; ``changes`` replace fields, ``None`` drops one."""
        mail = {
            "personalizations": [
                {"to": [{"email": address}], "custom_args": {"delivery_id": str(uuid.uuid4())}} for address in addresses
            ],
            "from": {"email": "notify@example.com", "name": "Notify"},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "Text"}, {"type": "text/html", "value": "<p>Text</p>"}],
            **changes,
        }
        body = {name: value for name, value in mail.items() if value is not None}
        return self.post_mail(json.dumps(body).encode(), http_headers)

    def post_mail(self, body: bytes, headers: dict | None = None):
        return self.session.post(
            f"{self.env['SENDGRID_BASE_URL']}/v3/mail/send",
            data=body,
            headers={
                "Authorization": f"Bearer {self.env['SENDGRID_API_KEY']}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
            timeout=5,
        )
