"""Tools of the built-in source: travel, maps, parcels, shops. Data only."""

from __future__ import annotations

from components.data_refine import sample_values as v
from components.data_refine.sample_slots import (
    Template,
    choice,
    city,
    code,
    code_number,
    decimal,
    email,
    flag,
    group,
    made,
    on_day,
    optional,
    quoted,
    several,
    text,
    whole,
)

TRAVEL_TOOLS = (
    Template(
        "search_train_rides",
        "travel",
        "train connections",
        "Train connections between two cities on a day.",
        {
            "origin": city("City of departure.", "from {}"),
            "destination": city("City of arrival.", "to {}"),
            "day": on_day("Day of travel"),
            "seats": optional(whole("Number of seats.", 2, 6, "for {} people", "with {} seats"), 1),
            "comfort": optional(choice("Class.", {"first": ("first",), "second": ("second",)}, "in {} class")),
        },
        (
            "find a train",
            "search trains from {origin} to {destination}",
            "look up train rides",
            "Which trains go from {origin} to {destination}?",
            "I have to get from {origin} to {destination} by train.",
            "show me rail connections between {origin} and {destination}",
        ),
    ),
    Template(
        "reserve_guesthouse",
        "travel",
        "a guesthouse room",
        "Reserve rooms in a guesthouse.",
        {
            "town": city("Where to stay.", "in {}"),
            "check_in": on_day("First night", "from {}", "checking in on {}", "starting {}"),
            "nights": whole("Number of nights.", 1, 14, "for {} nights", "staying {} nights"),
            "rooms": optional(whole("Number of rooms.", 2, 5, "with {} rooms", "{} rooms in total"), 1),
            "breakfast": optional(
                flag(
                    "Include breakfast.",
                    ("with breakfast", "breakfast included"),
                    ("without breakfast", "with no breakfast"),
                ),
                False,
            ),
        },
        (
            "reserve a guesthouse",
            "book a room in {town}",
            "find me a place to sleep",
            "I need a room in {town} for {nights} nights.",
            "get a guesthouse in {town} for {nights} nights",
        ),
    ),
    Template(
        "quote_rental_van",
        "travel",
        "a van rental price",
        "Price of renting a van.",
        {
            "pickup_city": city("Where the van is collected.", "in {}", "picked up in {}"),
            "days": whole("Rental days.", 1, 21, "for {} days", "over {} days"),
            "seats": choice(
                "Size of the van.", {"five": ("five",), "seven": ("seven",), "nine": ("nine",)}, "with {} seats"
            ),
            "insurance": optional(
                flag(
                    "Full insurance.",
                    ("with full insurance", "with everything insured"),
                    ("without insurance", "with no extra insurance"),
                ),
                True,
            ),
        },
        (
            "get a price for a rental van",
            "What does a van cost in {pickup_city} for {days} days?",
            "quote a van rental",
            "How much is it to rent a van for {days} days?",
            "price a {seats} seat van",
        ),
        spread=("pickup_city", "days"),
    ),
    Template(
        "visa_rules",
        "travel",
        "visa rules",
        "Whether a traveller needs a visa.",
        {
            "passport": text(
                "Country that issued the passport.", v.COUNTRIES, "with a passport from {}", "for a citizen of {}"
            ),
            "destination": text("Country to visit.", v.COUNTRIES, "to {}", "for a trip to {}"),
            "stay_days": optional(whole("Length of the stay.", 5, 120, "for {} days", "staying {} days")),
        },
        (
            "check the visa rules",
            "Is a visa needed to visit {destination} with a passport from {passport}?",
            "find out about visas",
            "tell me if I need a visa",
        ),
        spread=("destination",),
    ),
    Template(
        "distance_by_road",
        "maps",
        "a driving distance",
        "Driving distance between two cities.",
        {
            "start": city("Where the drive starts.", "from {}"),
            "end": city("Where it ends.", "to {}"),
            "unit": optional(
                choice("Unit of the result.", {"km": ("km", "kilometers"), "miles": ("miles",)}, "in {}"), "km"
            ),
        },
        (
            "How far is it from {start} to {end} by car?",
            "measure the driving distance",
            "get the road distance",
            "work out the drive between {start} and {end}",
            "I'm driving from {start} to {end}, tell me the distance.",
        ),
        spread=("end",),
    ),
    Template(
        "elevation_of_point",
        "maps",
        "the height of a point",
        "Height above sea level of a point.",
        {
            "point": group(
                "Coordinates in degrees.",
                {
                    "lat": decimal("Latitude.", -60, 70, 2),
                    "lon": decimal("Longitude.", -170, 170, 2),
                },
                "latitude {lat} and longitude {lon}",
                "at {}",
                "of {}",
            ),
        },
        (
            "find the elevation",
            "What is the height above sea level at {point}?",
            "get the elevation at {point}",
            "How high is the ground at {point}?",
        ),
    ),
    Template(
        "nearby_places",
        "maps",
        "places nearby",
        "Places of one kind around a spot.",
        {
            "kind": text("What to look for.", v.PLACE_KINDS, "of the kind {}"),
            "center": text("Middle of the search.", v.LANDMARKS, "around {}", "near {}"),
            "radius_m": whole(
                "Search radius in meters.", 100, 5000, "within {} meters", "no further than {} meters", step=100
            ),
            "open_now": optional(
                flag(
                    "Only places that are open.",
                    ("that is open now", "open right now"),
                    ("open or not", "even if closed"),
                ),
                False,
            ),
        },
        (
            "find a {kind}",
            "look for a {kind} near {center}",
            "Is there a {kind} within {radius_m} meters of {center}?",
            "I need a {kind} near {center}.",
            "show places",
        ),
        spread=("kind",),
    ),
    Template(
        "follow_parcel",
        "shipping",
        "the place of a parcel",
        "Where a parcel is now.",
        {
            "tracking_code": made("Code on the receipt.", code("AA999999AA"), "with the code {}", "for {}"),
            "carrier": optional(choice("Company that brings it.", v.CARRIERS, "sent with {}", "via {}")),
        },
        (
            "track the parcel {tracking_code}",
            "Where is my parcel {tracking_code}?",
            "follow a parcel",
            "look up {tracking_code}",
            "find out where my package is",
            "My parcel {tracking_code} has not arrived yet, find it.",
        ),
        spread=("tracking_code",),
    ),
    Template(
        "estimate_postage",
        "shipping",
        "the cost of postage",
        "Price of sending a parcel.",
        {
            "weight_kg": decimal("Weight in kilograms.", 0.2, 25, 1, "weighing {} kg", "of {} kg"),
            "origin": text("Country it is sent from.", v.COUNTRIES, "from {}"),
            "destination": text("Country it goes to.", v.COUNTRIES, "to {}"),
            "express": optional(
                flag(
                    "Fast delivery.",
                    ("by express", "with express delivery"),
                    ("by standard mail", "without express delivery"),
                ),
                False,
            ),
        },
        (
            "estimate the postage",
            "What does it cost to send {weight_kg} kg from {origin} to {destination}?",
            "get a price for a parcel",
            "price a {weight_kg} kg parcel to {destination}",
        ),
        spread=("destination",),
    ),
    Template(
        "schedule_pickup",
        "shipping",
        "a parcel pickup",
        "Have parcels collected at an address.",
        {
            "address": group(
                "Where to collect.",
                {
                    "street": text("Street.", v.STREETS),
                    "number": code_number("House number.", 1, 180),
                    "city": city("City."),
                },
                "{number} {street}, {city}",
                "at {}",
                "from {}",
            ),
            "day": on_day("Day of the pickup"),
            "parcels": whole("How many.", 1, 9, "for {} parcels", "with {} parcels waiting"),
        },
        (
            "schedule a pickup",
            "collect {parcels} parcels from {address}",
            "send a courier",
            "arrange a parcel pickup",
            "I have {parcels} parcels to hand over at {address}.",
        ),
    ),
    Template(
        "gift_card",
        "shopping",
        "a gift card",
        "Send a gift card by e-mail.",
        {
            "amount": whole("Value in whole euros.", 10, 250, "worth {} euros", "of {} euros", step=5),
            "email": made("Address of the recipient.", email, "to {}"),
            "message": optional(quoted("Greeting on the card.", v.MESSAGES, "with the greeting {}", "saying {}")),
        },
        (
            "send a gift card",
            "buy a {amount} euro gift card",
            "order a gift card of {amount} euros",
            "email a gift card",
        ),
    ),
    Template(
        "find_offers",
        "shopping",
        "offers for a product",
        "Search shops for a product.",
        {
            "product": text("What to buy.", v.PRODUCTS, "for {}"),
            "max_price": decimal("Highest price.", 15, 400, 2, "under {}", "for at most {}"),
            "brands": optional(several("Brands to accept.", text("", v.BRANDS), 1, 3, "from {}", "made by {}")),
            "in_stock": optional(
                flag(
                    "Only what can ship now.",
                    ("in stock now", "that ships today"),
                    ("in stock or not", "even on back order"),
                ),
                True,
            ),
        },
        (
            "find {product}",
            "search offers",
            "look for {product} under {max_price}",
            "I'm looking for {product}.",
            "Who sells {product} for less than {max_price}?",
        ),
        spread=("product",),
    ),
    Template(
        "reorder_item",
        "shopping",
        "an order repeated",
        "Order the content of an old order again.",
        {
            "order_number": code_number("Number of the old order.", 10000, 99999, "with the number {}"),
            "quantity": whole("How many.", 1, 12, "{} times", "in a quantity of {}"),
            "ship_to": optional(city("City of delivery.", "shipped to {}", "Deliver it to {}")),
        },
        (
            "reorder {order_number}",
            "repeat order {order_number}",
            "order {order_number} again",
            "buy the same thing again",
            "I want order {order_number} once more.",
        ),
        spread=("order_number",),
    ),
    Template(
        "return_goods",
        "shopping",
        "goods returned",
        "Start the return of an order.",
        {
            "order_number": code_number("Number of the order.", 10000, 99999, "from order {}"),
            "reason": choice(
                "Why.",
                {
                    "damaged": ("damaged", "it arrived damaged"),
                    "wrong_size": ("wrong size", "it is the wrong size"),
                    "late": ("late", "it came too late"),
                    "changed_mind": ("changed mind",),
                },
                "Reason: {}",
                "because: {}",
            ),
            "refund": optional(
                flag(
                    "Money back, else a replacement.",
                    ("for a refund", "with my money back"),
                    ("for a replacement", "in exchange for a new one"),
                )
            ),
        },
        (
            "return order {order_number}",
            "send back order {order_number}",
            "start a return",
            "I'd like to return order {order_number}.",
        ),
        spread=("order_number",),
    ),
)
