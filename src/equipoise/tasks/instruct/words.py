"""The vocabularies of the task ``instruct``: each split has topics, words and phrases of its own.

No word, phrase or number that fills a test prompt fills any prompt of another split; validation shares only its small
counts (of bullet points and sentences) with train.
"""

from __future__ import annotations

from dataclasses import dataclass

REQUESTS = (
    "Write something short about {}.",
    "Say something short about {}.",
    "Write a few words about {}.",
    "Write a short note about {}.",
    "Tell me briefly about {}.",
    "Write a short line about {}.",
)


@dataclass(frozen=True)
class Vocabulary:
    """What the prompts of one split are filled with."""

    topics: tuple[str, ...]
    include: tuple[str, ...]
    avoid: tuple[str, ...]
    start: tuple[str, ...]
    end: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    at_most: tuple[int, ...]
    at_least: tuple[int, ...]
    bullets: tuple[int, ...]
    sentences: tuple[int, ...]


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.replace("\n", ",").split(",") if item.strip())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.split() for item in _list(text)]
    return tuple((a, b) for a, b in pairs)


VOCABULARY = {
    "train": Vocabulary(
        topics=_list(
            """rivers, the moon, bread, chess, horses, winter, trains, coffee, gardens, bridges, dolphins, museums
            pianos, rain, cheese, bicycles, volcanoes, football, honey, castles, spiders, the desert, painting, soup
            airplanes, owls, chocolate, clouds, markets, snow, guitars, apples, robots, elephants, the ocean, dancing
            clocks, tigers, breakfast, mountains, cats, swimming, candles, rice, whales, summer, mirrors, potatoes
            kites, doctors, islands, tea, wolves, camping, oranges, the wind, shoes, penguins, photography, pizza
            lions, school, windows, butter, turtles, running, stars, farms, music, salt, frogs, birthdays, trees
            sharks, sleep, corn, tents, basketball, paper, goats, the sky, cooking, cities, bananas, eagles, sand
            boxes, fishing, roses, teachers, boats, pepper, monkeys, caves, radio, beans, hats, ants, maps, carpets
            blankets, wheels, cherries, spoons, sheep, lemons, pencils, parks, drums, bears"""
        ),
        include=_list(
            """green, travel, simple, quiet, family, strong, early, paint, golden, dream, fresh, secret, happy, round
            silver, future, gentle, bright, corner, listen, market, season, wonder, yellow, modern, planet
            famous, careful, honest, pocket, winner, street, laugh, summer, learn, circle, danger, flower, engine"""
        ),
        avoid=_list("very, good, nice, great, really, many, people, also, make, important"),
        start=_list("Honestly, Today, Sometimes, Once, Often, Perhaps, Imagine, Yes, Usually, First, Here, Every"),
        end=_list(
            """that is all, hope this helps, have a lovely day, stay curious, thank you, see you soon, keep going
            with love, well done, and that is fine, never give up, cheers to you"""
        ),
        keys=_pairs(
            """name reason, title text, topic fact, color size, item price, word meaning, place season, idea note
            subject detail, start finish"""
        ),
        at_most=(10, 15, 20, 25, 30),
        at_least=(10, 15, 20),
        bullets=(2, 3),
        sentences=(2, 3),
    ),
    "validation": Vocabulary(
        topics=_list(
            """lakes, violins, foxes, autumn, buses, milk, towers, crabs, theaters, thunder, onions, scooters
            tennis, jam, palaces, beetles, the jungle, poems, noodles, helicopters, ravens, biscuits, fog, shops
            flutes, pears, rockets, camels, valleys, hiking"""
        ),
        include=_list("purple, journey, clever, softly, mother, heavy, late, sketch, copper, hope, clean, puzzle"),
        avoid=_list("so, big, well, lot, thing"),
        start=_list("Indeed, Now, Maybe, Finally, Again"),
        end=_list("take care, more to come, you are welcome, be kind, that says it"),
        keys=_pairs("label comment, object use, animal sound, origin goal"),
        at_most=(16, 24),
        at_least=(8, 16),
        bullets=(2, 3),
        sentences=(2, 3),
    ),
    "test": Vocabulary(
        topics=_list(
            """lighthouses, the sun, cake, puppets, rabbits, spring, subways, juice, forests, tunnels, octopuses
            libraries, trumpets, storms, yogurt, skateboards, glaciers, baseball, sugar, temples, bees, the beach
            sculpture, salad, balloons, parrots, waffles, rainbows, bakeries, ice, harps, grapes, computers, zebras
            comets, singing, calendars, leopards, dinner, hills, dogs, sailing, lamps, wheat, seals, holidays
            umbrellas, carrots, magnets, nurses, ponds, smoothies, hedgehogs, picnics, peaches, fire, gloves
            swans, movies, sandwiches, giraffes, hospitals, doors, garlic, snails, skiing, meteors, orchards"""
        ),
        include=_list(
            """crimson, voyage, basic, silent, brother, mighty, sudden, draw, marble, memory, crisp, riddle, cheerful
            narrow, ivory, tomorrow, tender, shiny, village, whisper, lantern, meadow, miracle, velvet"""
        ),
        avoid=_list("some, like, much, best, world, new"),
        start=_list("Certainly, Tonight, Clearly, Suddenly, Nowadays, Generally, Surely, Look"),
        end=_list(
            """the end, now you know, enjoy the day, until next time, and so on, happy reading, try it yourself
            rest well"""
        ),
        keys=_pairs("heading body, gadget purpose, region climate, claim proof, hero story, cause effect"),
        at_most=(12, 18, 22, 28),
        at_least=(12, 18),
        bullets=(4,),
        sentences=(1,),
    ),
}
