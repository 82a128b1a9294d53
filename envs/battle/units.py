"""The units of the battle worlds: one row of numbers each, with their sources.

Base values: SMAClite's unit files (uoe-agents/smaclite 0d6abbe), Legacy of the Void, in "faster"
seconds (22.4 game loops each). Sight and attack ranges of SMACv2: oxwhirl/smacv2 577ab5a. Cooldown
normalisers: oxwhirl/smac d6aab33. `type_BU` in the state of the world indexes `UNITS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOOPS_PER_SECOND = 22.4  # game loops in one "faster" second of StarCraft II
SHIELD_REGENERATION = 2.0  # shield points per second, once the delay is over
SHIELD_DELAY_LOOPS = 224.0  # 10 s without damage, in game loops
HEAL_RATE = 9.0  # hp per second that a medivac restores
HEAL_PER_ENERGY = 3.0  # hp per point of energy
HEAL_START_ENERGY = 5.0  # energy needed to begin healing; once begun it goes on to 0
ENERGY_START, ENERGY_MAX = 50.0, 200.0  # of a medivac
ENERGY_REGENERATION = 0.5625  # energy per second

Attribute = Literal["light", "armoured", "biological", "mechanical", "massive", "structure"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One unit type.

    Args:
        hp, shield: full values, points; shield 0 = not Protoss.
        armour: taken off every hit that reaches hp.
        damage, hits: points per hit and hits per attack.
        bonus, bonus_against: extra points per hit against one attribute.
        cooldown: seconds between attacks.
        max_cooldown: SMAC's normaliser of the state's cooldown, game loops.
        range: weapon (or healing) reach beyond both radii, map units.
        shoot_range, sight: SMACv2's attack range (before its floor of 2) and sight range, centre to centre.
        speed: map units per second.
        radius: half the diameter, map units.
        regeneration: hp per second.
        scan: range of acquiring targets beyond the own radius.
        splash_ahead, splash_across: full extents of a rectangle around the target that is hit too.
        blast: radius of the area around the attacker that a suicide attack hits (0 = no suicide).
    """

    name: str
    hp: float
    shield: float = 0.0
    armour: float = 0.0
    damage: float = 0.0
    hits: int = 1
    bonus: float = 0.0
    bonus_against: Attribute = "light"
    cooldown: float = 1.0
    max_cooldown: float
    range: float
    shoot_range: float
    sight: float
    speed: float
    radius: float
    regeneration: float = 0.0
    scan: float = 5.0
    attributes: frozenset[Attribute]
    air: bool = False
    hits_air: bool = False
    heals: bool = False
    walks_cliffs: bool = False
    splash_ahead: float = 0.0
    splash_across: float = 0.0
    blast: float = 0.0

    @property
    def armed(self) -> bool:
        """Attacks, or heals."""
        return self.damage > 0 or self.heals


_ZERG_REGENERATION = 0.38  # hp per second

UNITS: tuple[Unit, ...] = (
    Unit(
        name="marine", hp=45, damage=6, cooldown=0.61, max_cooldown=15, range=5, shoot_range=5, sight=9,
        speed=3.15, radius=0.375, attributes=frozenset({"light", "biological"}), hits_air=True,
    ),
    Unit(
        name="marauder", hp=125, armour=1, damage=10, bonus=10, bonus_against="armoured", cooldown=1.07,
        max_cooldown=25, range=6, shoot_range=6, sight=10, speed=3.15, radius=0.5625,
        attributes=frozenset({"armoured", "biological"}),
    ),
    Unit(
        name="medivac", hp=150, armour=1, max_cooldown=200, range=4, shoot_range=4, sight=11, speed=3.5,
        radius=0.75, attributes=frozenset({"armoured", "mechanical"}), air=True, heals=True,
    ),
    Unit(
        name="stalker", hp=80, shield=80, armour=1, damage=13, bonus=5, bonus_against="armoured",
        cooldown=1.34, max_cooldown=35, range=6, shoot_range=6, sight=10, speed=4.13, radius=0.625,
        attributes=frozenset({"armoured", "mechanical"}), hits_air=True,
    ),
    Unit(
        name="zealot", hp=100, shield=50, armour=1, damage=8, hits=2, cooldown=0.86, max_cooldown=22,
        range=0.1, shoot_range=0.1, sight=9, speed=3.15, radius=0.5,
        attributes=frozenset({"light", "biological"}),
    ),
    Unit(
        name="colossus", hp=200, shield=150, armour=1, damage=10, hits=2, bonus=5, bonus_against="light",
        cooldown=1.07, max_cooldown=24, range=7, shoot_range=7, sight=10, speed=3.15, radius=1.0,
        attributes=frozenset({"armoured", "mechanical", "massive"}), walks_cliffs=True,
        splash_ahead=0.3, splash_across=2.8,
    ),
    Unit(
        name="zergling", hp=35, damage=5, cooldown=0.497, max_cooldown=11, range=0.1, shoot_range=0.1,
        sight=8, speed=4.13, radius=0.375, regeneration=_ZERG_REGENERATION,
        attributes=frozenset({"light", "biological"}),
    ),
    # CHOICE: a baneling deals 20 (+15 against light), Legacy of the Void before patch 4.11, the one of the
    # SMAC paper's StarCraft II 4.6.2; SMAClite's flat 80 is the damage against buildings.
    Unit(
        name="baneling", hp=30, damage=20, bonus=15, bonus_against="light", cooldown=1.0, max_cooldown=1,
        range=0.25, shoot_range=0.25, sight=8, speed=3.15, radius=0.375, regeneration=_ZERG_REGENERATION,
        attributes=frozenset({"biological"}), blast=2.2,
    ),
    # CHOICE: hp 90 and cooldown 0.54 s of Liquipedia (SMAX: 80, 0.59; SMAClite has no hydralisk); the
    # diameter is SMAX's. It hits air, as in StarCraft II.
    Unit(
        name="hydralisk", hp=90, damage=12, cooldown=0.54, max_cooldown=10, range=5, shoot_range=5, sight=9,
        speed=3.15, radius=0.625, regeneration=_ZERG_REGENERATION,
        attributes=frozenset({"light", "biological"}), hits_air=True,
    ),
    # CHOICE: sight and shoot_range are placeholders that nothing reads (it is always an enemy).
    Unit(
        name="spine_crawler", hp=300, armour=2, damage=25, bonus=5, bonus_against="armoured", cooldown=1.32,
        max_cooldown=15, range=7, shoot_range=7, sight=11, speed=0, radius=0.5, scan=10,
        regeneration=_ZERG_REGENERATION, attributes=frozenset({"structure"}),
    ),
    # Overseer, roach, reaper: Liquipedia, Legacy of the Void; no table of SMAC's knows them.
    # CHOICE: max_cooldown is the weapon's, rounded up as SMAC's; reapers do not regenerate out of combat.
    Unit(
        name="overseer", hp=200, armour=1, max_cooldown=1, range=0, shoot_range=0, sight=11, speed=2.62,
        radius=1.0, regeneration=_ZERG_REGENERATION, air=True,
        attributes=frozenset({"armoured", "biological"}),
    ),
    Unit(
        name="roach", hp=145, armour=1, damage=16, cooldown=1.43, max_cooldown=35, range=4, shoot_range=4,
        sight=9, speed=3.15, radius=0.625, regeneration=_ZERG_REGENERATION,
        attributes=frozenset({"armoured", "biological"}),
    ),
    Unit(
        name="reaper", hp=60, damage=4, hits=2, bonus=3, bonus_against="light", cooldown=0.79,
        max_cooldown=20, range=5, shoot_range=5, sight=9, speed=5.25, radius=0.375,
        attributes=frozenset({"light", "biological"}),
    ),
)  # fmt: skip

TYPE = {unit.name: index for index, unit in enumerate(UNITS)}  # name -> index into UNITS
