"""Word lists of the built-in source: what users name in their requests. Data only; invented or common knowledge."""

from __future__ import annotations

CITIES = (
    "Oslo", "Rome", "Lima", "Kyoto", "Porto", "Bergen", "Graz", "Lyon", "Leeds", "Tampere", "Gdansk", "Split", "Malmo",
    "Ghent", "Basel", "Turin", "Seville", "Cork", "Aarhus", "Tartu", "Kaunas", "Brno", "Zagreb", "Sofia", "Athens",
    "Izmir", "Haifa", "Cairo", "Tunis", "Rabat", "Dakar", "Accra", "Lagos", "Nairobi", "Kigali", "Durban", "Cape Town",
    "Muscat", "Dubai", "Karachi", "Pune", "Jaipur", "Kochi", "Colombo", "Dhaka", "Vientiane", "Da Nang", "Chiang Mai",
    "Penang", "Singapore", "Jakarta", "Cebu", "Taipei", "Busan", "Osaka", "Sapporo", "Perth", "Adelaide", "Wellington",
    "Dunedin", "Honolulu", "Anchorage", "Portland", "Denver", "Austin", "Tulsa", "Omaha", "Boise", "Tucson", "Memphis",
    "Richmond", "Buffalo", "Halifax", "Quebec City", "Calgary", "Winnipeg", "Merida", "Puebla", "Panama City",
    "San Jose", "Bogota", "Medellin", "Quito", "Cusco", "La Paz", "Cordoba", "Mendoza", "Montevideo", "Recife",
    "Salvador", "Valparaiso", "Salt Lake City", "Las Cruces", "Fort Worth", "Baton Rouge", "Aberdeen",
)  # fmt: skip
COUNTRIES = (
    "Norway", "Portugal", "Japan", "Kenya", "Brazil", "Canada", "Poland", "Greece", "Vietnam", "Chile", "Morocco",
    "Ireland", "Finland", "Mexico", "Turkey", "Egypt", "Iceland", "Croatia", "Thailand", "Estonia", "Peru", "Ghana",
    "New Zealand", "South Africa", "Sri Lanka", "South Korea", "Austria", "Denmark", "Uruguay", "Switzerland",
)  # fmt: skip
FIRST_NAMES = (
    "Amara", "Bjorn", "Carla", "Dmitri", "Elif", "Farah", "Goran", "Hana", "Ivo", "Jun", "Katya", "Leila", "Mateo",
    "Nadia", "Omar", "Priya", "Quentin", "Rosa", "Sven", "Tomas", "Uma", "Viktor", "Wanda", "Ximena", "Yusuf", "Zoe",
    "Anders", "Bianca", "Chidi", "Doreen", "Emre", "Freya", "Gustav", "Heidi", "Imani", "Jorge", "Kofi", "Lucia",
)  # fmt: skip
LAST_NAMES = (
    "Okafor", "Lindqvist", "Moreau", "Petrov", "Yilmaz", "Haddad", "Novak", "Tanaka", "Baros", "Kim", "Sorokina",
    "Rahimi", "Fuentes", "Costa", "Farouk", "Menon", "Dubois", "Vargas", "Holm", "Horak", "Rao", "Weiss", "Kowalska",
    "Reyes", "Demir", "Adler", "Berg", "Conti", "Eze", "Mwangi", "Kaya", "Olsen", "Brandt", "Keller", "Abebe", "Silva",
)  # fmt: skip
STREETS = (
    "Elm Street", "Harbour Road", "Mill Lane", "Kirkegata", "Rosenweg", "Via Lunga", "Cedar Avenue", "Orchard Row",
    "Station Road", "Birch Court", "Hillcrest Drive", "Canal Street", "Lindenallee", "Rua Nova", "Maple Close",
)  # fmt: skip
ROOMS = (
    "kitchen", "bedroom", "living room", "bathroom", "hallway", "study", "nursery", "guest room", "attic", "basement",
    "garage", "dining room", "laundry room", "sunroom",
)  # fmt: skip
PRODUCTS = (
    "rain jacket", "desk lamp", "coffee grinder", "hiking boots", "noise-cancelling headphones", "office chair",
    "cast iron pan", "yoga mat", "road bike helmet", "electric kettle", "mechanical keyboard", "sleeping bag",
    "air purifier", "travel adapter", "wool blanket", "bread knife", "standing desk", "portable speaker",
    "trail running shoes", "water filter", "baby monitor", "bookshelf", "camping stove", "e-reader",
)  # fmt: skip
BRANDS = ("Nordvik", "Altura", "Kesto", "Brightleaf", "Omnia", "Talwin", "Ferrox", "Juniper & Co", "Halden", "Miravo")
FOODS = (
    "chickpeas", "spinach", "rice", "salmon", "lentils", "tofu", "potatoes", "mushrooms", "tomatoes", "eggs", "feta",
    "chicken thighs", "zucchini", "black beans", "pasta", "leeks", "pumpkin", "coconut milk", "bell peppers", "shrimp",
)  # fmt: skip
RESTAURANTS = (
    "Casa Verde", "The Copper Pot", "Lanterna", "Blue Heron", "Saffron House", "Old Mill Kitchen", "Trattoria Nino",
    "Kumo Ramen", "The Salted Fig", "Nordlys", "La Mesa Larga", "Pepper & Pine", "Harbour Grill", "Chez Colette",
)  # fmt: skip
SONGS = (
    "Paper Lanterns", "Slow Tide", "Midnight Orchard", "Glass Rivers", "Northbound", "Velvet Static", "Copper Sky",
    "Eleven Bridges", "Quiet Engines", "Honey and Rust", "Last Tram Home", "Polar Garden", "Second Summer",
)  # fmt: skip
ARTISTS = (
    "The Harbor Lights", "Mira Solen", "Static Bloom", "DJ Marlow", "Cinder Row", "Ada and the Foxes", "Oskar Lund",
    "Neon Ferry", "The Paper Kings", "Lola Quist", "Juno Park", "Field Notes",
)  # fmt: skip
BOOKS = (
    "The Clockmaker's Garden", "Salt and Cinders", "A Map of Small Rivers", "The Ninth Lighthouse", "Winter Grammar",
    "An Atlas of Moss", "The Quiet Surveyor", "Letters from Tromso", "The Glass Orchard", "Tides of Ash",
    "The Beekeeper's Ledger", "Seven Ferries", "A Short History of Bread",
)  # fmt: skip
SHOWS = (
    "Small Planets", "The Long Commute", "Kitchen Science", "Hidden Harbors", "Money in Plain Words", "Night Garden",
    "Code and Coffee", "The Map Room", "Second Half", "Tiny Histories", "Voices of the Delta",
)  # fmt: skip
MEDICINES = (
    "ibuprofen", "amoxicillin", "metformin", "loratadine", "vitamin D", "magnesium", "paracetamol", "atorvastatin",
    "folic acid", "cetirizine", "omeprazole", "zinc",
)  # fmt: skip
SPECIALTIES = (
    "dermatology", "pediatrics", "cardiology", "orthopedics", "dentistry", "physiotherapy", "ophthalmology", "allergy",
    "radiology", "psychology",
)  # fmt: skip
TOPICS = (
    "photosynthesis", "the French Revolution", "fractions", "world capitals", "irregular verbs", "plate tectonics",
    "basic chemistry", "music theory", "the solar system", "probability", "ancient Egypt", "human anatomy",
    "supply and demand", "computer networks", "Greek mythology",
)  # fmt: skip
MEETINGS = (
    "budget review", "design sync", "dentist visit", "parent evening", "sprint planning", "piano lesson",
    "lunch with Nadia", "client call", "yoga class", "board meeting", "car inspection", "team retro", "book club",
    "onboarding session", "quarterly planning", "rehearsal dinner", "vet appointment", "product demo",
)  # fmt: skip
SERVICES = (
    "billing-api", "search-index", "auth-gateway", "mail-worker", "report-builder", "image-cache", "orders-db",
    "chat-relay", "geo-lookup", "job-scheduler", "payment-hooks", "session-store",
)  # fmt: skip
TICKETS = (
    "Login page times out", "Export button missing", "Wrong tax on invoices", "Search returns no results",
    "App crashes on upload", "Emails arrive twice", "Dark mode unreadable", "Slow start after update",
    "Broken link in footer", "Password reset loops", "Charts show last year's data", "Phone number rejected",
)  # fmt: skip
LABELS = ("frontend", "backend", "regression", "customer", "security", "mobile", "docs", "performance", "billing")
PLANTS = ("birch", "grass", "ragweed", "hazel", "olive", "alder", "mugwort", "oak", "cypress", "plane tree")
GARDEN_ZONES = ("lawn", "rose bed", "vegetable patch", "greenhouse", "front hedge", "herb garden", "orchard", "terrace")
TEAMS = (
    "Riverside Rovers", "Northgate United", "Harbor City FC", "Granite Wolves", "Lakeside Comets", "Iron Valley",
    "Redwood Rangers", "Coastal Storm", "Summit Athletic", "Old Town Celtic",
)  # fmt: skip
LEAGUES = (
    "Premier Handball League", "Nordic Hockey Cup", "Coastal Basketball League", "Alpine Ski League",
    "City Futsal League", "Women's Super League", "Eastern Rugby Championship", "Island Cricket Trophy",
)  # fmt: skip
CLUBS = (
    "Eastside Racket Club", "Lakeview Sports Park", "Parkhill Tennis", "The Yard", "Central Leisure Hall",
    "Riverbend Club", "Stadium North", "Old Gym",
)  # fmt: skip
LANGUAGES = (
    "Spanish", "German", "Japanese", "Portuguese", "Turkish", "Polish", "Swahili", "Korean", "Greek", "Finnish",
    "Hindi", "Italian", "Dutch", "Arabic", "Czech", "Vietnamese",
)  # fmt: skip
SENTENCES = (
    "Where is the nearest pharmacy?", "The meeting starts at noon.", "I would like a window seat.",
    "Our train was delayed by an hour.", "Thank you for your patience.", "The soup contains nuts.",
    "Please keep this door closed.", "My luggage has not arrived.", "We are closed on Mondays.",
    "Happy birthday, dear friend!", "The contract ends in June.", "Can we pay by card?",
    "The water is too cold for swimming.", "I lost my blue umbrella.",
)  # fmt: skip
MESSAGES = (
    "running ten minutes late", "the keys are under the mat", "dinner is at seven", "call me when you land",
    "the package has arrived", "don't forget the tickets", "I'll bring dessert", "the plumber comes on Friday",
    "we are out of milk", "practice is cancelled today", "meet me at the north gate", "thanks for yesterday",
    "your table is ready", "the report is in the shared folder", "happy birthday", "good luck tomorrow",
)  # fmt: skip
GENRES = (
    "thriller", "comedy", "science fiction", "documentary", "western", "animation", "mystery", "romance", "fantasy",
    "war", "musical", "horror",
)  # fmt: skip
PLACE_KINDS = (
    "pharmacy", "bakery", "bike shop", "petrol station", "playground", "supermarket", "museum", "cash machine",
    "library", "vegan cafe", "hardware store", "swimming pool", "post office", "hotel",
)  # fmt: skip
LANDMARKS = (
    "Central Station", "City Hall", "the harbor", "Liberty Square", "the old bridge", "Terminal 2", "University Park",
    "the cathedral", "Market Hall", "the botanical garden", "West Gate",
)  # fmt: skip
SPENDING = (
    "groceries", "transport", "eating out", "clothing", "entertainment", "rent", "gifts", "pet care", "subscriptions",
    "health", "travel", "books",
)  # fmt: skip
CARRIERS = ("Swiftpost", "BlueVan", "Parcelix", "Nordfrakt", "GlobeHaul")
CURRENCIES = ("EUR", "USD", "GBP", "NOK", "JPY", "CHF", "SEK", "CAD", "AUD", "PLN", "INR", "BRL")
ISOTOPES = (
    "iodine-131", "cesium-137", "cobalt-60", "carbon-14", "tritium", "radon-222", "strontium-90", "polonium-210",
)  # fmt: skip
FORMULAS = (
    "NaCl", "C6H12O6", "H2SO4", "CaCO3", "NH3", "KMnO4", "C2H5OH", "Fe2O3", "NaHCO3", "CH4", "AgNO3", "C8H10N4O2",
)  # fmt: skip
PLANETS = ("Mars", "Venus", "Jupiter", "Saturn", "Mercury", "Uranus", "Neptune")
ROUTES = ("harbor loop", "forest trail", "river path", "hill circuit", "park lap", "coastal road", "track session")
PETS = ("Biscuit", "Momo", "Luna", "Captain", "Pepper", "Figaro", "Nugget", "Willow", "Ziggy", "Olive")
VEHICLES = ("family van", "blue hatchback", "delivery truck", "company car", "little coupe", "camper")
LIGHT_COLORS = ("warm white", "daylight", "red", "teal", "amber", "lavender", "soft pink")
GENERAL_REQUESTS = (
    "Write a four-line poem about {}.", "Tell me a joke about {}.", "Explain {} to a ten-year-old.",
    "What do people usually find hardest about {}?", "Give me three good reasons to learn about {}.",
    "Who first wrote about {}?", "Would you still study {} these days?", "Summarise what you know of {}.",
    "Invent a riddle about {}.", "What should I read first about {}?", "How would you teach {} in one hour?",
    "Come up with a title for an essay on {}.", "What is your opinion on {}?", "Draft a toast that mentions {}.",
)  # fmt: skip
GENERAL_AIMS = (
    "a poem", "a joke", "an explanation", "an opinion", "reasons", "a fact", "an opinion", "a summary", "a riddle",
    "a reading tip", "a lesson plan", "a title", "an opinion", "a toast",
)  # fmt: skip
