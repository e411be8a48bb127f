"""Tools of the built-in source: food, media, sports, library, messages. Data only."""

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
    full_name,
    made,
    on_day,
    optional,
    quoted,
    several,
    text,
    whole,
)

LEISURE_TOOLS = (
    Template(
        "book_dinner_table",
        "food",
        "a restaurant table",
        "Reserve a table at a restaurant.",
        {
            "restaurant": text("Name of the restaurant.", v.RESTAURANTS, "at {}"),
            "guests": whole("Number of people.", 2, 12, "for {} people", "for a party of {}", "for {} guests"),
            "day": on_day("Day of the visit"),
            "time": at_time("Arrival"),
            "outdoors": optional(flag("Sit outside.", ("outside", "on the terrace"), ("inside", "indoors")), False),
        },
        (
            "book a table",
            "reserve a table at {restaurant} for {guests}",
            "get us a table at {restaurant}",
            "I'd love to eat at {restaurant} with {guests} people.",
            "Is there a table for {guests} at {restaurant}?",
        ),
    ),
    Template(
        "plan_recipe",
        "food",
        "a recipe",
        "Suggest a recipe from ingredients at hand.",
        {
            "ingredients": several("What must be used.", text("", v.FOODS), 2, 5, "with {}", "using {}"),
            "servings": whole("Portions.", 1, 10, "for {} people", "serving {}"),
            "diet": optional(
                choice(
                    "Diet to respect.", ("vegan", "vegetarian", "gluten-free", "low-salt"), "Keep it {}", "that is {}"
                )
            ),
            "max_minutes": optional(
                whole("Longest cooking time.", 15, 90, "in at most {} minutes", "within {} minutes", step=5)
            ),
        },
        (
            "suggest a recipe",
            "find something to cook",
            "What can I cook with {ingredients}?",
            "plan a meal",
            "I have {ingredients} and need a recipe.",
        ),
    ),
    Template(
        "meal_calories",
        "food",
        "the calories of a food",
        "Calories in an amount of one food.",
        {
            "food": text("Name of the food.", v.FOODS, "of {}", "in {}"),
            "grams": whole("Weight in grams.", 20, 600, "for {} grams", "in a {} gram portion", step=5),
            "cooked": optional(flag("Weighed after cooking.", ("cooked", "weighed cooked"), ("raw", "weighed raw"))),
        },
        (
            "How many calories are in {grams} grams of {food}?",
            "count the calories of {grams} g of {food}",
            "work out the energy of {grams} grams of {food}",
            "look up the calories",
            "I ate {grams} grams of {food}, count the calories.",
        ),
        spread=("food", "grams"),
    ),
    Template(
        "queue_song",
        "media",
        "a song queued",
        "Add a song to the play queue.",
        {
            "title": quoted("Song title.", v.SONGS, "called {}"),
            "artist": text("Who plays it.", v.ARTISTS, "by {}"),
            "play_next": optional(
                flag(
                    "Put it first in the queue.",
                    ("right after this song", "as the next one"),
                    ("at the end of the queue", "after everything else"),
                ),
                False,
            ),
        },
        (
            "queue {title}",
            "play the song {title}",
            "add {title} to the queue",
            "put on {title}",
            "I want to hear {title} by {artist}.",
        ),
        spread=("title", "artist"),
    ),
    Template(
        "recommend_films",
        "media",
        "film recommendations",
        "Recommend films.",
        {
            "genre": choice("Kind of film.", v.GENRES, "in the {} genre", "of the {} kind"),
            "count": whole("How many.", 2, 12, "Give me {}", "limited to {} titles", limits=True),
            "languages": optional(several("Spoken languages.", text("", v.LANGUAGES), 1, 3, "in {}", "spoken in {}")),
            "min_rating": optional(
                decimal("Lowest rating, 0 to 10.", 5, 9, 1, "rated at least {}", "with a rating above {}")
            ),
        },
        (
            "recommend {count} {genre} films",
            "suggest some films",
            "list {count} good {genre} movies",
            "What {genre} movies should I watch?",
            "I'm in the mood for {count} {genre} films.",
        ),
        spread=("genre",),
    ),
    Template(
        "podcast_episodes",
        "media",
        "podcast episodes",
        "Episodes of a podcast.",
        {
            "show": quoted("Name of the podcast.", v.SHOWS, "of {}", "from {}"),
            "count": optional(whole("Number of episodes.", 2, 20, "limited to {}", "just {} of them"), 10),
            "newest_first": optional(
                flag(
                    "Order.", ("newest first", "starting with the latest"), ("oldest first", "starting with the oldest")
                ),
                True,
            ),
        },
        (
            "list the episodes of {show}",
            "get episodes of the podcast {show}",
            "show me podcast episodes",
            "What episodes does {show} have?",
        ),
        spread=("show",),
    ),
    Template(
        "team_standing",
        "sports",
        "a team's place in its league",
        "Place of a team in its league.",
        {
            "team": text("Name of the team.", v.TEAMS, "for {}"),
            "league": text("Name of the league.", v.LEAGUES, "in the {}"),
            "season": optional(
                code_number("Year in which the season began.", 2012, 2025, "in {}", "for the {} season")
            ),
        },
        (
            "Where do the {team} stand in the {league}?",
            "look up the standing",
            "check how {team} are doing",
            "show me the place of {team} in the {league}",
        ),
        spread=("team",),
    ),
    Template(
        "log_run",
        "sports",
        "a run logged",
        "Store a run in the training diary.",
        {
            "distance_km": decimal("Distance in kilometers.", 2, 42, 1, "of {} km", "over {} kilometers"),
            "minutes": whole("Time taken.", 13, 240, "in {} minutes", "taking {} minutes"),
            "route": optional(text("Name of the route.", v.ROUTES, "on the {}", "along the {}")),
            "heart_rate": optional(
                whole("Mean beats per minute.", 105, 180, "at a heart rate of {}", "with a pulse of {}")
            ),
        },
        (
            "log a run",
            "save my run of {distance_km} km",
            "I ran {distance_km} km in {minutes} minutes.",
            "note a {distance_km} km run",
            "add {distance_km} kilometers to my training diary",
        ),
    ),
    Template(
        "book_court",
        "sports",
        "a court",
        "Book a court at a club.",
        {
            "sport": choice("Game.", ("tennis", "badminton", "squash", "padel"), "for {}"),
            "club": text("Name of the club.", v.CLUBS, "at {}"),
            "day": on_day("Day of play", "on {}"),
            "time": at_time("Start"),
            "lights": optional(
                flag(
                    "Switch on flood lights.",
                    ("with lights", "with the flood lights on"),
                    ("without lights", "without the flood lights"),
                )
            ),
        },
        (
            "book a {sport} court",
            "reserve a court",
            "get a {sport} court at {club}",
            "Is a {sport} court free at {club}?",
            "I want to play {sport} at {club}.",
        ),
    ),
    Template(
        "lookup_book",
        "library",
        "a book in the catalogue",
        "Search the library catalogue.",
        {
            "title": quoted("Title of the book.", v.BOOKS, "called {}"),
            "format": optional(
                choice(
                    "Form of the book.",
                    {"print": ("print",), "ebook": ("ebook",), "audio": ("audio",)},
                    "in {} format",
                    "as {}",
                )
            ),
            "branch": optional(city("Library branch.", "at the {} branch", "in the {} library")),
        },
        (
            "look up {title}",
            "find the book {title}",
            "search the library",
            "Does the library have {title}?",
            "I'd like to read {title}.",
        ),
        spread=("title",),
    ),
    Template(
        "renew_loans",
        "library",
        "loans renewed",
        "Renew borrowed items.",
        {
            "card": code_number("Number of the library card.", 100000, 999999, "on card {}", "with card number {}"),
            "items": several("Item codes.", made("", code("A9999")), 1, 4, "for {}", "namely {}"),
            "weeks": optional(whole("By how long.", 2, 6, "for {} weeks", "by {} more weeks"), 2),
        },
        (
            "renew my loans",
            "extend the loan of {items}",
            "renew {items}",
            "keep {items} longer",
            "I need more time for {items}.",
        ),
    ),
    Template(
        "text_contact",
        "messages",
        "a text message sent",
        "Send a text message to a contact.",
        {
            "contact": made("First and last name.", full_name, "to {}"),
            "message": quoted("What to say.", v.MESSAGES, "saying {}", "with the text {}"),
            "urgent": optional(
                flag("Mark it urgent.", ("as urgent", "and mark it urgent"), ("as not urgent", "with normal priority")),
                False,
            ),
        },
        (
            "text {contact}: {message}",
            "send a text",
            "send {contact} the message {message}",
            "let {contact} know: {message}",
            "tell {contact} {message}",
        ),
    ),
)
