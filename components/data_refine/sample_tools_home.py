"""Tools of the built-in source: the house, its weather, its energy, the family. Data only."""

from __future__ import annotations

from components.data_refine import sample_values as v
from components.data_refine.sample_slots import (
    Template,
    at_time,
    choice,
    city,
    code,
    code_number,
    decimal,
    flag,
    group,
    made,
    on_day,
    optional,
    several,
    text,
    whole,
)

HOME_TOOLS = (
    Template(
        "current_conditions",
        "weather",
        "the weather at a place",
        "Current weather at a place.",
        {
            "place": city("Name of the city.", "in {}", "for {}"),
            "units": optional(
                choice(
                    "Temperature scale.",
                    {
                        "celsius": ("Celsius", "degrees Celsius", "celsius"),
                        "fahrenheit": ("Fahrenheit", "fahrenheit"),
                    },
                    "in {}",
                    "using {}",
                    "Give it in {}",
                ),
                "celsius",
            ),
        },
        (
            "What is the weather like in {place}?",
            "How is the weather in {place} right now?",
            "check the weather",
            "find out what the weather is now",
            "How warm is it in {place}?",
            "I need the weather report of {place}.",
        ),
        spread=("place",),
    ),
    Template(
        "rain_outlook",
        "weather",
        "a rain forecast",
        "Chance of rain over the coming hours.",
        {
            "town": city("Town to look at.", "in {}", "for {}"),
            "hours": whole(
                "How many hours ahead, 1 to 72.", 1, 72, "over the next {} hours", "for the coming {} hours"
            ),
            "hourly": optional(
                flag(
                    "Report every hour apart.",
                    ("hour by hour", "with hourly detail"),
                    ("without hourly detail", "as one overall figure"),
                ),
                False,
            ),
        },
        (
            "check the chance of rain",
            "Will it rain in {town} within the next {hours} hours?",
            "get a rain forecast",
            "Do I need an umbrella in {town} during the next {hours} hours?",
            "tell me how likely rain is",
        ),
        spread=("town",),
    ),
    Template(
        "pollen_report",
        "weather",
        "pollen levels",
        "Pollen levels of a region by plant.",
        {
            "region": text("Country or region.", v.COUNTRIES, "in {}", "across {}"),
            "plants": several("Plants to report.", text("", v.PLANTS), 1, 4, "for {}", "covering {}"),
        },
        (
            "show the pollen levels",
            "How bad is the pollen in {region} for {plants}?",
            "check the {plants} pollen",
            "I have hay fever and want the pollen report of {region}.",
            "look up pollen counts in {region}",
        ),
    ),
    Template(
        "set_room_heating",
        "home",
        "a room heated to a temperature",
        "Set the target temperature of one room.",
        {
            "room": text("Room of the house.", v.ROOMS, "in the {}", "for the {}"),
            "degrees": decimal("Target temperature in degrees Celsius.", 15, 25, 1, "to {} degrees", "at {} degrees"),
            "until": optional(at_time("Keep it until this time", "until {}", "Keep it so until {}")),
        },
        (
            "set the heating",
            "turn the {room} heating to {degrees} degrees",
            "warm the {room} to {degrees} degrees",
            "I want the {room} at {degrees} degrees.",
            "adjust the thermostat",
        ),
    ),
    Template(
        "dim_lights",
        "home",
        "lights dimmed",
        "Set brightness and color of a room's lights.",
        {
            "room": text("Room of the house.", v.ROOMS, "in the {}"),
            "brightness": whole("Percent, 0 is off.", 0, 100, "to {} percent", "to {}% brightness", limits=True),
            "color": optional(text("Color of the light.", v.LIGHT_COLORS, "in {}", "Make it {}")),
        },
        (
            "dim the lights",
            "set the {room} lights to {brightness} percent",
            "put the {room} lights at {brightness}%",
            "change the lighting",
            "The {room} lights should be at {brightness} percent.",
        ),
    ),
    Template(
        "start_robot_vacuum",
        "home",
        "floors vacuumed",
        "Send the robot vacuum to clean rooms.",
        {
            "rooms": several("Rooms to clean, in order.", text("", v.ROOMS), 1, 4, "in the {}", "Do the {}"),
            "mode": choice("Suction.", ("quiet", "normal", "turbo"), "in {} mode", "on {} power"),
            "mop": optional(
                flag("Mop as well.", ("and mop too", "with mopping"), ("without mopping", "but do not mop")), False
            ),
        },
        (
            "start the robot vacuum",
            "vacuum the {rooms}",
            "clean the floor of the {rooms}",
            "run the vacuum",
            "Can the robot vacuum the {rooms}?",
        ),
    ),
    Template(
        "arm_house_alarm",
        "home",
        "the alarm armed",
        "Arm the burglar alarm.",
        {
            "mode": choice(
                "Which sensors.",
                {"away": ("away",), "night": ("night",), "perimeter": ("perimeter",)},
                "in {} mode",
                "using {} mode",
            ),
            "delay_seconds": optional(
                whole("Seconds before it is armed.", 10, 120, "after {} seconds", "with a delay of {} seconds", step=5),
                30,
            ),
            "skip_zones": optional(
                several("Zones left out.", text("", v.ROOMS), 1, 3, "leaving out the {}", "Skip the {}")
            ),
        },
        (
            "arm the alarm",
            "set the house alarm to {mode} mode",
            "switch the alarm to {mode}",
            "turn on the burglar alarm",
        ),
    ),
    Template(
        "water_garden",
        "home",
        "a garden zone watered",
        "Open the sprinkler of one garden zone.",
        {
            "zone": text("Garden zone.", v.GARDEN_ZONES, "in the {}", "for the {}"),
            "minutes": whole("How long.", 3, 45, "for {} minutes", "over {} minutes"),
            "skip_if_rain": optional(
                flag(
                    "Do nothing when rain is expected.",
                    ("unless it rains", "but skip it if rain is coming"),
                    ("even if it rains", "whatever the weather"),
                ),
                True,
            ),
        },
        (
            "water the {zone}",
            "run the sprinkler",
            "give the {zone} {minutes} minutes of water",
            "turn on the irrigation",
            "The {zone} needs {minutes} minutes of water.",
        ),
        spread=("zone", "minutes"),
    ),
    Template(
        "solar_yield",
        "energy",
        "a solar estimate",
        "Energy that a solar roof yields in a year.",
        {
            "town": city("Where the roof is.", "in {}"),
            "area_m2": decimal(
                "Panel area in square meters.", 5, 80, 1, "with {} square meters of panels", "for {} m2"
            ),
            "tilt_degrees": optional(
                whole("Tilt of the roof.", 5, 60, "tilted by {} degrees", "at a tilt of {} degrees"), 30
            ),
        },
        (
            "estimate the solar yield",
            "How much power do {area_m2} square meters of solar panels make in {town}?",
            "calculate what a solar roof brings",
            "work out the solar energy of a roof in {town}",
        ),
        spread=("town",),
    ),
    Template(
        "charge_car",
        "energy",
        "a car charged",
        "Charge an electric vehicle.",
        {
            "vehicle": text("Which vehicle.", v.VEHICLES, "for the {}"),
            "target_percent": whole("Battery level to reach.", 40, 100, "to {} percent", "up to {}%", limits=True),
            "ready_by": optional(at_time("When it must be ready", "by {}", "ready at {}")),
        },
        (
            "charge the {vehicle}",
            "load the {vehicle} up to {target_percent} percent",
            "start charging",
            "The {vehicle} must be at {target_percent} percent.",
            "plug in the {vehicle}",
        ),
        spread=("vehicle", "target_percent"),
    ),
    Template(
        "submit_meter",
        "energy",
        "a meter reading",
        "Send a meter reading to the supplier.",
        {
            "meter_id": made("Printed on the meter.", code("A-99999"), "of meter {}", "for {}"),
            "kwh": decimal("Reading.", 500, 9000, 1, "at {} kWh", "with a reading of {}"),
            "day": optional(on_day("Day of the reading", "read on {}", "as of {}")),
        },
        (
            "submit a meter reading",
            "Meter {meter_id} shows {kwh}.",
            "send the reading {kwh} of meter {meter_id}",
            "report {kwh} kWh for meter {meter_id}",
        ),
    ),
    Template(
        "pet_checkup",
        "family",
        "a vet checkup",
        "Book a checkup at the vet.",
        {
            "pet": text("Name of the pet.", v.PETS, "for {}"),
            "day": on_day("Day of the checkup"),
            "services": optional(
                several(
                    "What to do.",
                    text("", ("vaccination", "dental cleaning", "nail trim", "blood test", "weighing")),
                    1,
                    3,
                    "including {}",
                    "with {}",
                )
            ),
        },
        (
            "book a vet checkup",
            "get {pet} an appointment at the vet",
            "{pet} needs a checkup on {day}.",
            "arrange a checkup for {pet}",
            "Can {pet} see the vet on {day}?",
        ),
        spread=("pet",),
    ),
    Template(
        "split_bill",
        "family",
        "a bill split",
        "Split a bill between people.",
        {
            "total": decimal("Amount of the bill.", 20, 400, 2, "of {}", "totalling {}"),
            "people": whole("How many pay.", 2, 10, "between {} people", "{} ways", "among {} friends"),
            "tip_percent": optional(
                whole("Tip on top, in percent.", 5, 25, "with a {} percent tip", "adding {}% tip"), 0
            ),
        },
        (
            "split the bill",
            "split {total} between {people} people",
            "How much does each of {people} people pay for a bill of {total}?",
            "divide a bill of {total}",
            "We are {people} people and the bill is {total}.",
        ),
    ),
    Template(
        "babysitter_request",
        "family",
        "a babysitter",
        "Ask for a babysitter.",
        {
            "address": group(
                "Where the children are.",
                {
                    "street": text("Street.", v.STREETS),
                    "number": code_number("House number.", 1, 180),
                    "city": city("City."),
                },
                "{number} {street}, {city}",
                "at {}",
            ),
            "day": on_day("Day"),
            "children": several(
                "Ages of the children.", code_number("", 1, 12), 1, 3, "for children aged {}", "The kids are {}"
            ),
        },
        ("request a babysitter", "find a babysitter", "I need a sitter on {day}.", "get someone to watch the kids"),
    ),
)
