"""What the holder of an unsubscribe link gets, and what becomes of their word about it.

The link stands for its category on its channel; where the category has gone, messages are sent by the default's rules,
and so the link stands for the default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import partial
from typing import Final

import structlog
from django.db import transaction

from apps.channels import Channel
from apps.preferences import selectors, services
from apps.preferences.categories import DEFAULT_KEY, CategoryRules
from apps.preferences.locks import lock_recipient
from apps.preferences.models import Category, Recipient, SubscriptionChoice
from apps.preferences.policy import is_wanted
from apps.preferences.snapshots import wishes_of
from apps.preferences.stated import StatedPreferences
from apps.preferences.unsubscribe import Link

log = structlog.get_logger("notify.preferences.subscription")


class Scope(StrEnum):
    """How far a choice goes: this category on this channel, the whole channel, everything; or all the way back."""

    CATEGORY = "category"
    CHANNEL = "channel"
    ALL = "all"
    RESUBSCRIBE = "resubscribe"


class Source(StrEnum):
    """Where the word came from."""

    ONE_CLICK = "one_click"
    PAGE = "unsubscribe_page"


class State(Enum):
    """What a recipient gets of a link's category and channel."""

    SUBSCRIBED = "subscribed"
    CATEGORY_OFF = "category_off"
    CHANNEL_OFF = "channel_off"
    ALL_OFF = "all_off"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a page may show to whoever holds the link. ``name`` is the category's, blank for the default one;
    ``address`` is masked, and ``None`` if it may not be the one that the link was sent to."""

    state: State
    channel: Channel
    name: str
    description: str
    address: str | None
    is_suppressed: bool


@dataclass(frozen=True, slots=True)
class Words:
    """What is to be stored, as ``services.update_preferences`` takes it."""

    is_opted_out: bool | None = None
    channels: Mapping[Channel, bool | None] = field(default_factory=dict)
    categories: Mapping[str, Mapping[Channel, bool | None]] = field(default_factory=dict)


_WITHOUT_ROW: Final = 0


def select_standing(link: Link) -> Standing | None:
    """How the recipient of ``link`` stands now; ``None`` if there is no such recipient, or not any more."""
    recipient = selectors.select_recipient(link.user_id)
    if recipient is None:
        return None
    rules = _rules_of(link)
    category = Category.objects.filter(pk=rules.id).first() if rules.key else None
    snapshot = selectors.load_snapshots({recipient.user_id: recipient.version}).get(recipient.user_id)
    return Standing(
        state=find_state(selectors.select_preferences(recipient), link.channel, rules),
        channel=link.channel,
        name=category.name if category else "",
        description=category.description if category else "",
        address=_find_address(recipient, link),
        is_suppressed=snapshot is not None and link.channel in snapshot.suppressed_channels,
    )


@transaction.atomic
def make_choice(*, link: Link, scope: Scope, source: Source) -> None:
    """Store the word that the holder of ``link`` has just given, and that it was given; the same again changes nothing.
    Every decision made after the commit sees it. Raises ``UnknownRecipient`` if there is no such recipient, or not
    any more."""
    recipient = lock_recipient(link.user_id)
    rules = _rules_of(link)
    words = choose_words(scope, selectors.select_preferences(recipient), link.channel, rules)
    version = recipient.version
    recipient = services.update_preferences(
        user_id=link.user_id, is_opted_out=words.is_opted_out, channels=words.channels, categories=words.categories
    )
    has_changed = recipient.version != version
    if has_changed:
        SubscriptionChoice.objects.create(
            recipient=recipient,
            channel=link.channel.value,
            category=rules.key,
            scope=scope.value,
            source=source.value,
            link_made_at=link.made_at,
        )
    tell = partial(
        log.info,
        "subscription_choice",
        user_id=link.user_id,
        channel=link.channel.label,
        category=rules.key,
        scope=scope.value,
        source=source.value,
        has_changed=has_changed,
    )
    transaction.on_commit(tell, robust=True)


def find_state(stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> State:
    """Pure. A channel counts as off only while the recipient asked for no category on it by name."""
    if stated.is_opted_out:
        return State.ALL_OFF
    if _is_channel_off(stated, channel):
        return State.CHANNEL_OFF
    is_on, _ = is_wanted(wishes_of(stated.categories.get(rules.key, {})), wishes_of(stated.channels), channel, rules)
    return State.SUBSCRIBED if is_on else State.CATEGORY_OFF


def choose_words(scope: Scope, stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> Words:
    """Pure. What a choice means to somebody who has said ``stated`` so far.

    Leaving a channel takes back what was asked for on it by name, which would go before the word on the channel.
    Coming back takes back what was said against the category, on whatever level; if it is off by default or only the
    channel is closed to it, it is asked for by name."""
    if scope is Scope.CATEGORY and rules.id == _WITHOUT_ROW:
        scope = Scope.CHANNEL  # there is nothing smaller to refuse
    match scope:
        case Scope.CATEGORY:
            return Words(categories={rules.key: {channel: False}})
        case Scope.CHANNEL:
            asked_for = [key for key, wishes in stated.categories.items() if wishes.get(channel)]
            return Words(channels={channel: False}, categories={key: {channel: None} for key in asked_for})
        case Scope.ALL:
            return Words(is_opted_out=True)
        case Scope.RESUBSCRIBE:
            return _words_to_return(stated, channel, rules)


def _words_to_return(stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> Words:
    channels: dict[Channel, bool | None] = {}
    said = dict(stated.channels)
    if _is_channel_off(stated, channel):
        channels[channel] = None
        del said[channel]
    if rules.id == _WITHOUT_ROW:
        return Words(is_opted_out=False, channels=channels)
    wish = True if stated.categories.get(rules.key, {}).get(channel) else None
    is_on, _ = is_wanted(wishes_of({} if wish is None else {channel: wish}), wishes_of(said), channel, rules)
    return Words(is_opted_out=False, channels=channels, categories={rules.key: {channel: wish if is_on else True}})


def _is_channel_off(stated: StatedPreferences, channel: Channel) -> bool:
    is_refused = stated.channels.get(channel) is False
    return is_refused and not any(wishes.get(channel) for wishes in stated.categories.values())


def _rules_of(link: Link) -> CategoryRules:
    rules = selectors.load_categories((link.category,))
    return rules.get(link.category, rules[DEFAULT_KEY])


def _find_address(recipient: Recipient, link: Link) -> str | None:
    """A link may lie in a mailbox that is not the recipient's any more: it must not tell of the new one."""
    name = selectors.CONTACT_COLUMNS.get(link.channel)
    set_at = getattr(recipient, f"{name}_set_at") if name else None
    if set_at is None or set_at > link.made_at:
        return None
    return selectors.mask_contact(recipient, link.channel)
