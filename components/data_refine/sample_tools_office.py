"""Tools of the built-in source: money, calendar, office, operations. Data only."""

from __future__ import annotations

from components.data_refine import sample_values as v
from components.data_refine.sample_slots import (
    Template,
    at_time,
    choice,
    code,
    decimal,
    email,
    flag,
    full_name,
    made,
    on_day,
    optional,
    quoted,
    several,
    text,
    whole,
)

OFFICE_TOOLS = (
    Template(
        "compare_loan_offers",
        "finance",
        "loan offers",
        "Compare offers for a loan.",
        {
            "amount": whole("Sum in euros.", 1000, 90000, "of {} euros", "for {} euros", step=500),
            "years": whole("Time to pay back.", 2, 30, "over {} years", "paid back in {} years"),
            "fixed_rate": optional(
                flag(
                    "Only offers with a fixed rate.",
                    ("at a fixed rate", "with fixed interest"),
                    ("at a variable rate", "with variable interest"),
                )
            ),
        },
        (
            "compare loan offers",
            "What would a loan of {amount} euros over {years} years cost?",
            "find a loan of {amount} euros",
            "I want to borrow {amount} euros for {years} years.",
            "look for loans",
        ),
        spread=("amount", "years"),
    ),
    Template(
        "send_money",
        "finance",
        "money sent",
        "Transfer money to a person.",
        {
            "recipient": made("First and last name.", full_name, "to {}"),
            "amount": decimal("Amount to transfer.", 5, 900, 2, "in the amount of {}", "of {}"),
            "currency": choice("Currency code.", v.CURRENCIES, "in {}", "paid in {}"),
            "note": optional(quoted("Text for the recipient.", v.MESSAGES, "with the note {}", "Add the note {}")),
        },
        (
            "send {amount} {currency} to {recipient}",
            "transfer {amount} {currency}",
            "pay {recipient} {amount} {currency}",
            "make a payment",
            "I owe {recipient} {amount} {currency}, please pay it.",
            "wire money",
        ),
    ),
    Template(
        "savings_after",
        "finance",
        "the growth of savings",
        "Value of savings after some years.",
        {
            "principal": whole("Sum at the start.", 500, 50000, "starting with {}", "on {} of savings", step=250),
            "rate_percent": decimal("Yearly interest in percent.", 0.5, 8, 2, "at {} percent", "with {}% interest"),
            "years": whole("Number of years.", 1, 40, "after {} years", "over {} years"),
            "compounding": optional(
                choice(
                    "How often interest is added.",
                    ("yearly", "quarterly", "monthly"),
                    "compounded {}",
                    "with {} compounding",
                ),
                "yearly",
            ),
        },
        (
            "How much will {principal} be at {rate_percent} percent after {years} years?",
            "work out my savings",
            "calculate how savings grow",
            "tell me what {principal} becomes in {years} years",
        ),
    ),
    Template(
        "set_budget_cap",
        "finance",
        "a spending limit",
        "Set a monthly limit for one kind of spending.",
        {
            "category": text("Kind of spending.", v.SPENDING, "for {}", "on {}"),
            "limit": whole("Limit per month.", 20, 1500, "of {} a month", "at {}", step=10),
            "warn_at": optional(
                decimal(
                    "Share of the limit that triggers a warning, 0 to 1.",
                    0.5,
                    0.95,
                    2,
                    "Warn me at {}",
                    "with a warning at {}",
                )
            ),
        },
        (
            "set a budget",
            "cap my {category} budget at {limit}",
            "limit what I spend on {category} to {limit}",
            "I want to spend {limit} on {category} at most.",
            "put a spending limit in place",
        ),
    ),
    Template(
        "add_agenda_entry",
        "calendar",
        "a calendar entry",
        "Add an entry to the calendar.",
        {
            "title": quoted("What it is.", v.MEETINGS, "called {}", "with the title {}"),
            "day": on_day("Day"),
            "start": at_time("Start", "at {}", "starting at {}"),
            "minutes": optional(whole("Length.", 15, 180, "for {} minutes", "lasting {} minutes", step=15), 60),
            "guests": optional(several("Who is invited.", made("", full_name), 1, 3, "with {}", "Invite {}")),
        },
        (
            "add {title} to my calendar",
            "put {title} in the calendar",
            "schedule {title}",
            "create a calendar entry",
            "block time for {title}",
        ),
    ),
    Template(
        "free_slots",
        "calendar",
        "free time of a person",
        "Free times of a person on a day.",
        {
            "person": made("First and last name.", full_name, "for {}"),
            "day": on_day("Day to look at", "on {}"),
            "minutes": optional(
                whole("Shortest useful gap.", 15, 120, "of at least {} minutes", "with room for {} minutes", step=15),
                30,
            ),
        },
        (
            "find a free slot",
            "When is {person} free on {day}?",
            "check when {person} has time",
            "look for an opening",
            "Does {person} have time on {day}?",
        ),
        spread=("person", "day"),
    ),
    Template(
        "move_appointment",
        "calendar",
        "an appointment moved",
        "Move an appointment to another day.",
        {
            "appointment_id": made("Id of the appointment.", code("AA-9999"), "with the id {}"),
            "new_day": on_day("New day", "to {}"),
            "new_time": optional(at_time("New start", "at {}")),
            "notify": optional(
                flag(
                    "Tell the others.",
                    ("and tell everyone", "and notify the guests"),
                    ("without telling anyone", "and don't notify the guests"),
                ),
                True,
            ),
        },
        (
            "move appointment {appointment_id}",
            "reschedule {appointment_id} to {new_day}",
            "shift an appointment",
            "Can {appointment_id} be moved to {new_day}?",
        ),
    ),
    Template(
        "open_ticket",
        "work",
        "a ticket",
        "Open a ticket in the tracker.",
        {
            "title": quoted("Short title.", v.TICKETS, "titled {}", "about {}"),
            "severity": choice("How bad.", ("low", "medium", "high", "critical"), "with {} severity", "as {}"),
            "labels": optional(several("Labels.", text("", v.LABELS), 1, 3, "labelled {}", "tagged {}")),
            "assignee": optional(made("Who takes it.", full_name, "assigned to {}", "Assign it to {}")),
        },
        ("open a ticket", "file a bug {title}", "create a {severity} ticket {title}", "report the problem {title}"),
    ),
    Template(
        "request_leave",
        "work",
        "time off",
        "Ask for days off.",
        {
            "kind": choice(
                "Sort of leave.",
                {"vacation": ("vacation",), "sick": ("sick",), "parental": ("parental",)},
                "as {} leave",
            ),
            "first_day": on_day("First day off", "from {}", "starting {}"),
            "days": whole("How many days.", 1, 30, "for {} days", "lasting {} days"),
            "half_day": optional(
                flag("Only half of each day.", ("as half days", "half days only"), ("as full days", "full days")), False
            ),
        },
        (
            "request {kind} leave",
            "ask for time off",
            "put in {kind} leave for {days} days from {first_day}",
            "I need {days} days of {kind} leave from {first_day}.",
        ),
    ),
    Template(
        "mail_summary",
        "work",
        "a summary mailed",
        "Mail the summary of a document.",
        {
            "document": made("Id of the document.", code("DOC-9999"), "of {}", "for {}"),
            "recipients": several("E-mail addresses.", made("", email), 1, 3, "to {}"),
            "words": optional(
                whole("Longest length.", 50, 400, "in at most {} words", "kept to {} words", step=10), 150
            ),
        },
        (
            "mail a summary of {document}",
            "summarise {document} for {recipients}",
            "send out a summary",
            "email the summary of {document} to {recipients}",
        ),
    ),
    Template(
        "restart_service",
        "operations",
        "a service restarted",
        "Restart a service.",
        {
            "service": text("Name of the service.", v.SERVICES, "of {}"),
            "environment": choice(
                "Where it runs.",
                {"production": ("production",), "staging": ("staging",), "test": ("test",)},
                "in {}",
                "on {}",
            ),
            "force": optional(
                flag(
                    "Do not wait for open requests.", ("by force", "without waiting"), ("gracefully", "without force")
                ),
                False,
            ),
        },
        (
            "restart {service}",
            "bounce {service}",
            "reboot the {service} service",
            "The service {service} hangs in {environment}, restart it.",
            "do a service restart",
        ),
        spread=("service",),
    ),
    Template(
        "scale_workers",
        "operations",
        "more or fewer workers",
        "Set the number of workers of a service.",
        {
            "service": text("Name of the service.", v.SERVICES, "for {}", "of {}"),
            "workers": whole("How many.", 1, 64, "to {} workers", "with {} workers"),
            "memory_gb": optional(decimal("Memory of each.", 0.5, 32, 1, "with {} GB each", "Give each {} GB")),
        },
        (
            "scale {service} to {workers} workers",
            "run {service} with {workers} workers",
            "change the worker count",
            "The service {service} needs {workers} workers.",
        ),
        spread=("service", "workers"),
    ),
)
