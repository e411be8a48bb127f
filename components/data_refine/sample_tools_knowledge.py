"""Tools of the built-in source: health, language, science, numbers, study. Data only."""

from __future__ import annotations

from components.data_refine import sample_values as v
from components.data_refine.sample_slots import (
    Template,
    choice,
    city,
    clock,
    code_number,
    decimal,
    flag,
    made,
    on_day,
    optional,
    quoted,
    several,
    text,
    whole,
)

KNOWLEDGE_TOOLS = (
    Template(
        "log_blood_pressure",
        "health",
        "a blood pressure logged",
        "Store one blood pressure reading.",
        {
            "systolic": whole("Upper value in mmHg.", 95, 175, "with {} systolic", "upper value {}"),
            "diastolic": whole("Lower value in mmHg.", 55, 105, "and {} diastolic", "lower value {}"),
            "arm": optional(choice("Arm used.", ("left", "right"), "on the {} arm", "measured on my {} arm")),
        },
        (
            "log a blood pressure of {systolic} over {diastolic}",
            "save my blood pressure, {systolic}/{diastolic}",
            "My blood pressure was {systolic} over {diastolic}.",
            "record {systolic} over {diastolic} as my blood pressure",
            "note my blood pressure",
        ),
    ),
    Template(
        "remind_medicine",
        "health",
        "a medicine reminder",
        "Daily reminder to take a medicine.",
        {
            "medicine": text("Name of the medicine.", v.MEDICINES, "for {}"),
            "dose_mg": whole("Dose in milligrams.", 5, 1000, "at {} mg", "with a dose of {} mg", step=5),
            "times": several("Times of day, HH:MM.", made("", clock), 1, 3, "at {}", "daily at {}"),
            "with_food": optional(
                flag(
                    "Take it with a meal.",
                    ("with food", "together with a meal"),
                    ("on an empty stomach", "without food"),
                )
            ),
        },
        (
            "remind me to take {dose_mg} mg of {medicine}",
            "set a reminder for {dose_mg} mg {medicine}",
            "set up a medicine reminder",
            "I have to take {dose_mg} mg of {medicine} at {times}.",
        ),
    ),
    Template(
        "find_clinic",
        "health",
        "a clinic",
        "Clinics of one specialty in a town.",
        {
            "specialty": text("Medical field.", v.SPECIALTIES, "for {}"),
            "town": city("Town to search.", "in {}", "around {}"),
            "open_weekends": optional(
                flag(
                    "Open on Saturday or Sunday.",
                    ("that is open on weekends", "with weekend hours"),
                    ("with weekday hours", "without weekend hours"),
                ),
                False,
            ),
        },
        (
            "find a clinic",
            "look for a clinic with {specialty}",
            "Where can I get {specialty} in {town}?",
            "I need an appointment for {specialty} in {town}.",
            "search {town} for {specialty}",
        ),
        spread=("town", "specialty"),
    ),
    Template(
        "render_translation",
        "language",
        "a translation",
        "Translate a text.",
        {
            "text": quoted("What to translate.", v.SENTENCES, "of {}"),
            "language": choice("Language of the result.", v.LANGUAGES, "into {}", "to {}", "in {}"),
            "formal": optional(
                flag("Polite form.", ("in formal style", "formally"), ("in casual style", "informally"))
            ),
        },
        (
            "translate {text}",
            "put {text} into {language}",
            "How do you say {text} in {language}?",
            "give me a translation",
            "What is {text} in {language}?",
        ),
        spread=("language",),
    ),
    Template(
        "molar_mass",
        "science",
        "a molar mass",
        "Molar mass of a compound.",
        {
            "formula": text("Chemical formula.", v.FORMULAS, "of {}", "for {}"),
            "decimals": optional(whole("Digits after the point.", 1, 5, "to {} decimals", "rounded to {} places"), 2),
        },
        (
            "What is the molar mass of {formula}?",
            "compute the molar mass",
            "find how much a mole of {formula} weighs",
            "get the molar mass of {formula}",
        ),
        spread=("formula",),
    ),
    Template(
        "decay_remaining",
        "science",
        "the rest of a decaying substance",
        "What is left of a radioactive sample.",
        {
            "isotope": text("Name of the isotope.", v.ISOTOPES, "of {}", "for {}"),
            "grams": decimal("Mass at the start.", 0.5, 90, 1, "starting from {} grams", "with {} g at first"),
            "days": decimal("Days that pass.", 1, 400, 1, "after {} days", "once {} days have passed"),
        },
        (
            "How much {isotope} is left of {grams} grams after {days} days?",
            "calculate the decay",
            "work out what remains of {grams} grams of {isotope}",
            "I have {grams} grams of {isotope}, tell me what is left.",
        ),
        spread=("isotope",),
    ),
    Template(
        "planet_visibility",
        "science",
        "the visibility of a planet",
        "When a planet can be seen from a place.",
        {
            "planet": choice("Name of the planet.", v.PLANETS, "of {}", "for {}"),
            "town": city("Where you watch.", "from {}", "in {}"),
            "night": on_day("Evening to watch", "on {}", "in the night of {}"),
        },
        (
            "Can I see {planet} from {town} on {night}?",
            "check the visibility",
            "find out when {planet} is visible",
            "When does {planet} rise over {town}?",
        ),
        spread=("planet", "town"),
    ),
    Template(
        "swap_units",
        "math",
        "a unit conversion",
        "Convert a quantity to another unit.",
        {
            "quantity": decimal("Number to convert.", 0.5, 900, 2, "of {}"),
            "source_unit": choice(
                "Unit it is in.", ("meters", "feet", "liters", "gallons", "kilograms", "pounds"), "from {}"
            ),
            "target_unit": choice(
                "Unit wanted.",
                ("yards", "inches", "cups", "pints", "ounces", "grams", "centimeters"),
                "to {}",
                "into {}",
            ),
        },
        (
            "convert {quantity} {source_unit} to {target_unit}",
            "What is {quantity} {source_unit} in {target_unit}?",
            "turn {quantity} {source_unit} into {target_unit}",
            "How many {target_unit} are {quantity} {source_unit}?",
        ),
        spread=("quantity", "target_unit"),
    ),
    Template(
        "weighted_average",
        "math",
        "an average",
        "Mean of some numbers.",
        {
            "numbers": several("Values.", decimal("", 0.5, 99, 1), 3, 6, "of {}", "over {}"),
            "weights": optional(
                several("Weight of each value.", code_number("", 1, 9), 3, 3, "weighted {}", "with the weights {}")
            ),
            "drop_extremes": optional(
                flag(
                    "Leave out the lowest and the highest.",
                    ("without the extremes", "leaving out the extremes"),
                    ("with all values", "keeping the extremes"),
                ),
                False,
            ),
        },
        (
            "compute the average",
            "What is the mean of {numbers}?",
            "average {numbers}",
            "work out the mean of {numbers}",
            "My measurements are {numbers}, average them.",
        ),
    ),
    Template(
        "rectangle_panels",
        "math",
        "the panels for a wall",
        "Panels needed to cover a rectangular wall.",
        {
            "width": decimal("Width of the wall in meters.", 1, 20, 2, "{} meters wide"),
            "height": decimal("Height of the wall in meters.", 1, 6, 2, "{} meters high"),
            "panel_area": optional(decimal("Area of one panel.", 0.2, 2.5, 2, "using panels of {} square meters"), 1),
        },
        (
            "How many panels cover a wall of {width} by {height} meters?",
            "count the panels for a wall",
            "plan the panels for a wall of {width} by {height}",
            "My wall is {width} by {height} meters, count the panels.",
        ),
    ),
    Template(
        "make_quiz_cards",
        "study",
        "quiz cards",
        "Make cards to learn a topic.",
        {
            "topic": text("What to learn.", v.TOPICS, "about {}", "on {}"),
            "count": whole("How many cards.", 3, 40, "in a set of {}", "with {} cards"),
            "level": optional(
                choice("Difficulty.", ("beginner", "intermediate", "advanced"), "at {} level", "for {} students"),
                "beginner",
            ),
        },
        (
            "make {count} quiz cards",
            "make quiz cards",
            "prepare {count} cards about {topic}",
            "I have to learn {topic}.",
            "build me a card deck",
        ),
        spread=("topic", "count"),
    ),
    Template(
        "find_tutor",
        "study",
        "a tutor",
        "Find a tutor.",
        {
            "subject": text("What to learn.", v.TOPICS, "for {}", "in {}"),
            "hourly_rate": decimal(
                "Highest price of an hour.", 12, 80, 2, "for at most {} an hour", "charging up to {}"
            ),
            "weekdays": several(
                "Days that suit.",
                text("", ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")),
                1,
                3,
                "on {}",
            ),
            "online": optional(flag("Lessons by video.", ("online", "by video"), ("in person", "face to face"))),
        },
        ("find a tutor", "look for a {subject} tutor", "Who can teach me {subject}?", "I need help with {subject}."),
        spread=("subject",),
    ),
)
