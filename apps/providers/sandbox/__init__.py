"""A stand-in for the push, SMS and e-mail providers that speaks their wire protocols.

Runs as a process of its own (``python -m apps.providers.sandbox``) and shares no code with the adapters, so that a
mistake is not made twice in the same way. One module per provider (``fcm``, ``twilio``, ``sendgrid``); ``state`` is
what they share: the ledger of everything accepted, the inbox a person can look at, programmable faults, and the
receipts posted back.
"""
