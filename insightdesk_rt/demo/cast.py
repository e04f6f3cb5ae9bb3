"""The people of the demo and what they write. Data only."""

from __future__ import annotations

from typing import Literal, NamedTuple

TEAM = "support"


class Who(NamedTuple):
    id: str
    name: str
    role: Literal["customer", "agent", "admin"]
    title: str


class Opening(NamedTuple):
    """A ticket at the start of the demo, with its customer's first text."""

    id: str
    requester: Who
    subject: str
    status: Literal["new", "open", "pending", "on_hold", "solved", "closed"]
    priority: Literal["low", "normal", "high", "urgent"]
    assignee: Who | None
    text: str


class Talk(NamedTuple):
    """A chat: its subject, then the messages of customer and agent in turn."""

    subject: str
    lines: tuple[str, ...]


NORA = Who("nora", "Nora Lindqvist", "agent", "Agent, Support team")  # these three are the visitor
MIA = Who("mia", "Mia Torres", "customer", "Customer, Torres Ceramics")
ADA = Who("ada", "Ada Quinn", "admin", "admin")

BOB = Who("bob", "Bob Fischer", "agent", "Agent")
PRIYA = Who("priya", "Priya Nair", "agent", "Agent")
JONAS = Who("jonas", "Jonas Weber", "agent", "Agent")
ROBOTS = (BOB, PRIYA, JONAS)
AGENTS = (NORA, *ROBOTS)

LIAM = Who("liam", "Liam Byrne", "customer", "Customer")
YUKI = Who("yuki", "Yuki Tanaka", "customer", "Customer")
FATIMA = Who("fatima", "Fatima Haddad", "customer", "Customer")
DIEGO = Who("diego", "Diego Ramos", "customer", "Customer")
CHLOE = Who("chloe", "Chloe Martin", "customer", "Customer")
TOMASZ = Who("tomasz", "Tomasz Nowak", "customer", "Customer")
CUSTOMERS = (LIAM, YUKI, FATIMA, DIEGO, CHLOE, TOMASZ)
EVERYBODY = (*AGENTS, MIA, ADA, *CUSTOMERS)

MINE = "1042"  # the visiting customer's ticket
TICKETS = (
    Opening("1049", LIAM, "Import stops at row 10,000", "solved", "normal", JONAS, "The file has 14,200 rows."),
    Opening("1047", CHLOE, "App closes when I open a PDF", "on_hold", "high", PRIYA, "It happens on two phones."),
    Opening("1044", YUKI, "Export all contacts as CSV", "new", "normal", None, "Can I export every contact at once?"),
    Opening("1046", DIEGO, "Refund for a double charge", "pending", "normal", NORA, "We paid twice in October."),
    Opening("1048", TOMASZ, "SSO certificate expires soon", "open", "urgent", NORA, "Where do we upload the new one?"),
    Opening("1045", FATIMA, "Webhooks are late today", "open", "high", JONAS, "Ten minutes late, sometimes more."),
    Opening(
        "1043", LIAM, "Cannot sign in after a reset", "open", "urgent", PRIYA, "I am sent back to the sign-in page."
    ),
    Opening(
        MINE,
        MIA,
        "Invoice shows the wrong company name",
        "open",
        "high",
        BOB,
        "Our invoice says Torres Ltd. It should be Torres Ceramics Ltd. Can you issue it again?",
    ),
)
FRESH_IDS = ("1061", "1062", "1063", "1064")  # of tickets that come and go
SUBJECTS = (
    "Change the billing address",
    "Search in the archive is slow",
    "Add two seats to our plan",
    "Signature is cut off in replies",
    "Broken link in the welcome mail",
    "Keyboard shortcut for macros?",
)

TO_MIA = (
    "Thanks for the details. I see the old name on invoice 2231.",
    "I have corrected the company name in your account.",
    "The new invoice is being prepared now.",
    "It is on its way to your inbox, please have a look.",
    "Does the VAT number on it look right to you?",
    "I will keep this open until you confirm.",
)
ABOUT_MIA = (
    "Billing had the old name from the trial account.",
    "@Nora could you check the VAT number on this one?",
    "Same cause as the Haddad case last week.",
)
REPLIES = (
    "I can reproduce this and am looking into it.",
    "Could you send us a screenshot?",
    "This is fixed now. Could you try again?",
    "I have passed this on to the billing team.",
    "Thank you for your patience, more later today.",
)
ANSWERS = (
    "That works now, thank you!",
    "Still the same, I am afraid.",
    "Sure, I will send it in a minute.",
    "Great, thanks for the quick answer.",
)

TALKS = (
    Talk(
        "Question about seats",
        (
            "Hi, can I add a seat in the middle of the month?",
            "You can. It is charged by the day.",
            "Perfect, thank you!",
            "You are welcome.",
        ),
    ),
    Talk(
        "Where is my order?",
        (
            "Hello, order 58114 should have come yesterday.",
            "Let me check with the carrier.",
            "Thanks, I will wait.",
            "It will be there tomorrow before noon.",
        ),
    ),
    Talk(
        "A file is refused",
        (
            "I cannot upload my file. It has 40 MB.",
            "The limit is 25 MB. Could you split it?",
            "I see, that is easy.",
            "Good. Write again if anything is left.",
        ),
    ),
)
HELLO = "Hi Mia, this is {name}. How can I help?"
SMALL_TALK = (
    "Thank you. I am checking that for you.",
    "I see it now. One moment, please.",
    "Done. Could you reload the page?",
    "Is there anything else I can do?",
)
