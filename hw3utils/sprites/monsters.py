"""The art of the non-heroes: monsters, robots, ghosts. See `grammar` for the meaning of the characters."""

# One part, one block: the formatter would put every number on a line of its own.
# fmt: off
from .grammar import NOTHING, Kind, Slot, part


def _monster(name, *slots, colours=None, mirrored=False, shifts=((0, 0),)):
    return Kind(name, "non-hero", slots, colours=colours or {}, mirrored=mirrored, shifts=shifts)


_ROUND_HATS = (
    NOTHING,
    part("crown", 2, 5, """
        y.yy.y
        xyccyY
        YYYYYY"""),
    part("horns", 2, 4, """
        o......o
        oo....oO
        .o....O."""),
    part("bow", 2, 5, """
        tu..tt
        utTTtT
        tT..TT"""),
    part("sprout", 1, 6, """
        ff.f
        .fFF
        .fF."""),
    part("party hat", 1, 6, """
        .cc.
        .tu.
        .tT.
        cccC"""),
)

_SLIME = _monster(
    "slime",
    Slot("body", (
        part("drop", 4, 2, """
            ....nmmm....
            ..nnmmmmmm..
            .nnnmmmmmmM.
            .nnmmmmmmmM.
            nnmmmmmmmmmM
            nmmmmmmmmmmM
            mmmmmmmmmmmM
            mmmmmmmmmmMM
            mmmmmmmmmMMM
            .MMMMMMMMMM."""),
        part("puddle", 4, 1, """
            ..............
            ....nnmmmM....
            ...nnmmmmmM...
            ..nnnmmmmmmM..
            ..nnmmmmmmmM..
            ..nmmmmmmmmM..
            ..mmmmmmmmmM..
            .nmmmmmmmmmMM.
            .mmmMmmmmMmMM.
            ..MM.MMMM.MM.."""),
        part("cube", 4, 2, """
            nnnnmmmmmmmm
            nnnmmmmmmmmM
            nnmmmmmmmmmM
            nmmmmmmmmmmM
            nmmmmmmmmmmM
            mmmmmmmmmmmM
            mmmmmmmmmmmM
            mmmmmmmmmmMM
            mmmmmmmmmMMM
            MMMMMMMMMMMM"""),
    )),
    Slot("face", (
        part("two eyes", 8, 5, """
            #...#
            #...#
            .###."""),
        part("one eye", 7, 6, """
            ootT
            o##T
            o##O
            .OO."""),
        part("big mouth", 7, 5, """
            #...#
            #...#
            #####
            #rrr#
            .###."""),
        part("angry", 7, 4, """
            ##...##
            .#...#.
            .......
            .o###o.
            .#...#."""),
        part("cute", 8, 4, """
            .o#.o#.
            .##.##.
            p..#..p"""),
    )),
    Slot("hat", _ROUND_HATS),
    Slot("extra", (
        NOTHING,
        part("bubbles", 11, 3, """
            u...t
            ..T.."""),
        part("core", 11, 10, """
            cd
            Cc"""),
    )),
    shifts=((0, 0), (0, -1), (0, 1)),
)

_GHOST = _monster(
    "ghost",
    Slot("body", (
        part("sheet", 3, 3, """
            ...nnnm...
            .nnnmmmmM.
            .nnmmmmmM.
            nnmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmMM
            nmmmmmmmMM
            nmmMmmmMMM
            mM.mmM.MMM"""),
        part("arms", 3, 2, """
            ....nnnm....
            ..nnnmmmmM..
            ..nnmmmmmM..
            ..nmmmmmmM..
            nnnmmmmmmmMM
            nmmmmmmmmmMM
            .MnmmmmmmMM.
            ..nmmmmmmM..
            ..nmmmmmMM..
            ...nmmmMM...
            ....MMM....."""),
        part("wisp tail", 3, 3, """
            ...nnnm...
            .nnnmmmmM.
            .nnmmmmmM.
            nnmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            .mmmmmmmM.
            .nmmmmmM..
            ..nmmmM...
            ..mmMM....
            .MM......."""),
    )),
    Slot("face", (
        part("sad", 6, 5, """
            ##.##
            ##.##
            .....
            .##.."""),
        part("spooky", 6, 5, """
            #...#
            ##.##
            .....
            .###.
            .###."""),
        part("glowing", 6, 5, """
            dc.dc
            cC.cC
            .....
            #.#.#
            .#.#."""),
        part("tongue", 6, 5, """
            ##.##
            ##.##
            .....
            .####
            ..rr."""),
    )),
    Slot("hat", _ROUND_HATS),
    Slot("extra", (
        NOTHING,
        part("chain", 11, 4, """
            gGgGgGgG"""),
        part("scarf", 10, 4, """
            utttttTT
            .....tT."""),
    )),
    mirrored=True,
    shifts=((0, 0), (0, -1), (0, 1)),
)

_SKELETON = _monster(
    "skeleton",
    Slot("cape", (
        NOTHING,
        part("cape", 9, 2, """
            .t........T.
            .t........T.
            ut........TT
            utttttttttTT
            utttttttttTT
            .ttttttttTT."""),
    )),
    Slot("body", (
        part("bones", 9, 3, """
            .oo####oO.
            o#oqooOO#O
            o##o##O##O
            ..#oooO#..
            ..oo##oO..
            ..oo##oO.."""),
        part("rags", 9, 3, """
            .oo#oo#oO.
            o#mo##Om#O
            o#nmmmmM#O
            ..mmmmMM..
            ..mM##mM..
            ..oo##oO.."""),
        part("breastplate", 9, 3, """
            .nmmmmmMM.
            o#nmttM#MO
            o#mmttM#.O
            ..#mMM##..
            ..oo##oO..
            ..oo##oO.."""),
    ), outlined=True),
    Slot("face", (
        part("skull", 2, 4, """
            .qooooo.
            qooooooO
            ooooooOO
            o##oo##O
            o##oo##O
            ooo##oOO
            .o#o#OO."""),
        part("glowing eyes", 2, 4, """
            .qooooo.
            qooooooO
            o##oo##O
            #dc##dc#
            o##oo##O
            ooo##oOO
            .o#o#OO."""),
        part("cracked", 2, 4, """
            .qo#ooo.
            qoo#oooO
            oooo#oOO
            o##oo##O
            o##oo##O
            ooo##oOO
            .#o#o#O."""),
    )),
    Slot("hat", (
        NOTHING,
        part("crown", 1, 4, """
            y..yy..y
            xyycyyyY
            YYYYYYYY"""),
        part("pirate hat", 1, 3, """
            ..mmmmmm..
            .nmmoommM.
            nmmmoommMM
            tttttttttT"""),
        part("helmet", 1, 3, """
            ...lggG...
            ..lggggG..
            .lggggggG.
            GGGGGGGGGG"""),
        part("hood", 1, 3, """
            ...nmmm...
            ..nmmmmM..
            .nmmmmmmM.
            nmM....mMM
            nm......MM
            nm......MM
            .m......M."""),
    )),
    Slot("weapon", (
        NOTHING,
        part("sword", 3, 1, """
            .l.
            .lg
            .lg
            .lg
            .lg
            .lg
            yyyY
            .woo
            .y"""),
        part("scythe", 2, 1, """
            .wggG
            .wgggG
            .w..GG
            .w
            .w
            .w
            .w
            .w
            .woo
            .w
            .W"""),
        part("bone club", 5, 1, """
            o.o
            qoO
            .oO
            .oO
            .oO
            .ooo
            .oO
            .O."""),
    ), outlined=True),
)

_BAT = _monster(
    "bat",
    Slot("body", (
        part("wings up", 3, 1, """
            m....m..m....M
            mm...mmmm...mM
            mmm.nmmmmM.mmM
            mtmmnmmmmMMmtM
            mttmnmmmmMMttM
            mtttmmmmmMtttM
            m.tt.mmmM.tt.M
            ..t..mmmM..t..
            .....MMMM.....
            ......MM......"""),
        part("wings level", 4, 1, """
            .....m..m.....
            .mm..mmmm..mM.
            mmmmnmmmmMmmmM
            mttmnmmmmMMttM
            mtttmmmmmMtttM
            m.tttmmmMttt.M
            ..t.tmmmMt.t..
            .....MMMM.....
            .....M..M....."""),
        part("wings down", 3, 1, """
            .....m..m.....
            .....mmmm.....
            ..mmnmmmmMmM..
            .mmmnmmmmMmmM.
            mmtmnmmmmMMtmM
            mtttmmmmmMtttM
            mtttmmmmMMtttM
            mt.t.mmmM.t.tM
            m....MMMM....M
            m.....MM.....M"""),
    )),
    Slot("face", (
        part("fangs", 6, 6, """
            #..#
            ....
            #oo#"""),
        part("red eyes", 6, 6, """
            rpRr
            ....
            .##."""),
        part("cyclops", 6, 6, """
            .oo.
            o##o
            .oo."""),
        part("grin", 5, 6, """
            c..c
            #..#
            ....
            o#o#"""),
    )),
    Slot("extra", (
        NOTHING,
        part("belly", 9, 7, """
            uT"""),
        part("bow tie", 10, 6, """
            d##c"""),
        part("potion", 12, 7, """
            dc
            cC"""),
    )),
    shifts=((0, 0), (1, 0), (-1, 0)),
)

_GOBLIN_WEAPONS = (
    NOTHING,
    part("club", 4, 1, """
        .ww.
        vwwW
        vwwW
        .wwW
        .wW
        .wW
        .wmm
        .W"""),
    part("dagger", 6, 1, """
        .l
        .lg
        .lg
        yyY
        .wmm
        .W"""),
    part("spear", 2, 1, """
        .l
        lgG
        .t
        .w
        .w
        .w
        .w
        .w
        .wmm
        .w
        .W
        .W"""),
    part("axe", 4, 1, """
        lgw.
        lggg
        lgwG
        ..w.
        ..w.
        ..w.
        ..mm
        ..W.
        ..W."""),
)

_GOBLIN_BODIES = (
    part("loincloth", 9, 3, """
        .nmmmmmmM.
        mm#mmmM#mM
        mm#mmmM#MM
        ..wwyyww..
        ..wW##wW..
        ..mm##MM.."""),
    part("vest", 9, 3, """
        .uttmmtTT.
        mm#tmmT#mM
        mm#tmMT#MM
        ..wwyyww..
        ..TT##TT..
        ..mm##MM.."""),
    part("armour", 9, 3, """
        .lggggggG.
        lg#gttg#gG
        mm#gtTG#MM
        ..wwyyww..
        ..gg##gG..
        ..mm##MM.."""),
)

_GOBLIN = _monster(
    "goblin",
    Slot("body", _GOBLIN_BODIES, outlined=True),
    Slot("face", (
        part("goblin", 3, 1, """
            ....nmmmmm....
            m..nmmmmmmM..m
            mm.nmmmmmmM.mM
            .mmm##mm##mmM.
            ..mmy#mmy#mM..
            ...mmmMMmmM...
            ....o####o....
            ....mmmmMM...."""),
        part("orc", 3, 3, """
            .nmmmmmmM.
            nmmmmmmmmM
            nm##mm##mM
            .mr#mmr#M.
            .mmmMMmMM.
            .mo####oM.
            .mommmmoM.
            ..MMMMMM.."""),
        part("imp", 2, 2, """
            .o........o.
            .oo.nmmm.oO.
            ..onmmmmmO..
            ..nmmmmmmM..
            ..m##mm##M..
            m.my#mmy#M.m
            mmmmmMMmmMmM
            ..mo#oo#oM..
            ...MMMMMM..."""),
        part("troll", 3, 3, """
            .nmmmmmmM.
            nmmmmmmmmM
            m########M
            mmy#mmy#mM
            mmmnMMmmMM
            .mmnMMmMM.
            .m##o##MM.
            .mMMMMMMM."""),
    )),
    Slot("hat", (
        NOTHING,
        part("mohawk", 1, 6, """
            .cc.
            dccC
            dccC"""),
        part("pot helmet", 1, 3, """
            ..lggggG..
            .lgggggGG.
            .lgggggGG.
            GGGGGGGGGG"""),
        part("hood", 1, 4, """
            ..uttt..
            .uttttT.
            uttttttT
            tT....TT"""),
        part("bandana", 3, 4, """
            .uttttT.
            TTTTTTTT"""),
    )),
    Slot("weapon", _GOBLIN_WEAPONS, outlined=True),
    colours={"main": ("green", "lime", "teal", "red", "blue", "purple", "orange", "grey")},
)

_ROBOT = _monster(
    "robot",
    Slot("body", (
        part("boxy", 9, 3, """
            .nmmmmmmM.
            gg#mttM#gG
            gg#mttM#gG
            lG#mmMM#lG
            ..gg##gG..
            .lgG##lgG."""),
        part("round", 9, 3, """
            .nnmmmmM..
            g#nmmmmM#G
            gnmmttmmMG
            l#mmttmM#G
            ..mmmmMM..
            ...gg#gG.."""),
        part("tracks", 9, 3, """
            .nmmmmmmM.
            gg#tttM#gG
            lG#mmMM#lG
            .nmmmmmmM.
            gG#gG#gG#g
            .gG#gG#gG."""),
    ), outlined=True),
    Slot("face", (
        part("screen", 3, 3, """
            nmmmmmmmmM
            n########M
            m#d#cc#d#M
            m########M
            m##dccd##M
            MMMMMMMMMM"""),
        part("visor", 3, 4, """
            .lggggG.
            lggggggG
            g######G
            g#dccc#G
            gg####GG
            .gGGGGG."""),
        part("bolts", 3, 2, """
            ..nmmmmmmM..
            ..nmmmmmmM..
            lgmdcmmdcMgG
            lgmcCmmcCMgG
            ..mmmmmmmM..
            ..m#o#o#oM.."""),
        part("cyclops", 3, 4, """
            .nmmmmM.
            nmmggmMM
            nmgddgmM
            mmgdcGmM
            mmmGGmMM
            .M#M#M#."""),
    )),
    Slot("hat", (
        NOTHING,
        part("antenna", 1, 7, """
            cC
            gG"""),
        part("two antennas", 1, 5, """
            c....C
            g....G"""),
        part("siren", 1, 6, """
            .dc.
            rrrR"""),
    )),
    Slot("weapon", (
        NOTHING,
        part("wrench", 5, 1, """
            g.G
            ggG
            .gG
            .gG
            .gG
            .ggg
            .gG"""),
        part("laser", 5, 1, """
            .d.
            .c.
            .c.
            gggG
            gGgG
            .ggg
            .g"""),
        part("drill", 5, 1, """
            .l
            .l
            .gG
            lgG
            lgG
            ttTT
            .ggg"""),
    ), outlined=True),
)

_SPIDER = _monster(
    "spider",
    Slot("body", (
        part("spider", 4, 1, """
            .m..........M.
            mm..nnmmm...MM
            m..nnmmmmm...M
            m.nnmmmmmmM..M
            mmnmmmmmmmMmMM
            ..nmmmmmmmM...
            mmmmmmmmmMMmMM
            m.mmmmmmMM...M
            m..MMMMMM.M..M
            .m.m.....M..M.
            ..m.......M..."""),
        part("crab", 4, 1, """
            mm..........mM
            m.mm......mm.M
            mmm..nmmM..mmM
            .mm.nmmmmM.mM.
            ..mnmmmmmmMM..
            ..nmmmmmmmmM..
            .mnmmmmmmmMMM.
            m.mmmmmmmMM..M
            m..MMMMMMM...M
            ..m..m..M..M.."""),
        part("beetle", 4, 2, """
            .m........M.
            ..m.nmmM.M..
            ...nmmmmM...
            m.nnmm#mmM.m
            .nnmmm#mmmM.
            .nmmmm#mmmM.
            mnmmmm#mmmMM
            .nmmmm#mmMM.
            m.mmmm#mMM.M
            ...MMM#MM..."""),
    )),
    Slot("face", (
        part("two eyes", 7, 5, """
            o#..o#
            ##..##"""),
        part("four eyes", 7, 5, """
            r#..#r
            .r##r."""),
        part("fangs", 7, 5, """
            #....#
            .#..#.
            ......
            .o##o."""),
        part("happy", 7, 5, """
            #....#
            ......
            #....#
            .####."""),
    )),
    Slot("extra", (
        NOTHING,
        part("cross", 5, 7, """
            tu
            tT"""),
        part("jewel", 5, 7, """
            dc
            cC"""),
    )),
    Slot("hat", (
        NOTHING,
        part("crown", 1, 5, """
            y.yy.y
            xyccyY
            YYYYYY"""),
        part("top hat", 1, 5, """
            .gGGG.
            .tttT.
            gGGGGG"""),
    )),
    mirrored=True,
)

_EYE = _monster(
    "floating eye",
    Slot("body", (
        part("ball", 3, 2, """
            ....nmmm....
            ..nnmmmmmM..
            .nnmooooomM.
            .nmoooooooM.
            nmoooooooooM
            nmoooooooooM
            mmoooooooOMM
            .mmoooooOOM.
            .mmmoooOOMM.
            ..MMMMMMMM..
            ....MMMM...."""),
        part("tentacles", 2, 2, """
            ....nmmm....
            ..nnmmmmmM..
            .nnmooooomM.
            nnmoooooooMM
            nmoooooooOMM
            mmoooooooOMM
            .mmoooooOMM.
            .mmmmMMMMMM.
            mm.mm.mM.mM.
            m..m..M..M.M
            .m..m..M.MM."""),
        part("winged", 3, 1, """
            ....nmmmmM....
            tt.nmmmmmmM.tT
            tttmmoooommttT
            uttmoooooomtTT
            .utmooooooMtT.
            ..tmooooooMT..
            ...mmooooMM...
            ....mMMMMM....
            .....m..M.....
            ....mM..mM...."""),
    )),
    Slot("face", (
        part("iris", 6, 6, """
            tuT
            u#T
            tTT"""),
        part("wide iris", 5, 6, """
            .ut.
            u##T
            t##T
            .TT."""),
        part("slit", 5, 6, """
            .dc.
            c##C
            c##C
            .cC."""),
        part("sleepy", 5, 5, """
            nmmmmM
            ######
            .t##T.
            ..TT.."""),
    )),
    Slot("hat", (
        NOTHING,
        part("horns", 1, 3, """
            o........o
            oo......oO
            .oo....oO."""),
        part("crown", 1, 5, """
            y.yy.y
            xyccyY
            YYYYYY"""),
        part("eye stalks", 1, 4, """
            oo....oo
            o#....o#
            .mm..mM."""),
    )),
    shifts=((0, 0), (1, 0)),
)

_PUMPKIN = _monster(
    "pumpkin",
    Slot("body", (
        part("pumpkin", 4, 2, """
            ..nmMmmMmM..
            .nmMmmmmMmM.
            nmmMmmmmMmmM
            nmMmmmmmmMmM
            nmMmmmmmmMmM
            nmMmmmmmmMmM
            nmMmmmmmmMmM
            mmmMmmmmMmMM
            .mmMmmmmMMM.
            ..MMmMMmMM.."""),
        part("cactus", 3, 2, """
            ....nmmM....
            ...nmmmmM...
            ...nmmmmM..m
            m..nmmmmM.mM
            mm.nmmmmM.mM
            nm.nmmmmMmMM
            nmmnmmmmMMM.
            .mmmmmmmM...
            ...nmmmmM...
            ..tttttttT..
            ...utttTT..."""),
        part("tree stump", 3, 2, """
            ..nnmmmmmM..
            ..nmmmmmMM..
            ..nmmmmmmM..
            m.nmmmmmmM.m
            mmnmmmmmmMmM
            .mnmmmmmmMM.
            ..nmmmmmmM..
            ..nmmmmmmM..
            .nmmmmmmmMM.
            .mm#mMm#MmM.
            mm..mM...MMM"""),
    )),
    Slot("face", (
        part("carved", 7, 5, """
            y#..y#
            ##..##
            ......
            #y##y#
            .####."""),
        part("happy", 7, 5, """
            #....#
            #....#
            p.##.p"""),
        part("evil", 6, 5, """
            ##..##
            .#..#.
            ......
            .####.
            .#rr#."""),
        part("toothy", 7, 5, """
            o#..o#
            ##..##
            ......
            #o#o#o"""),
    )),
    Slot("hat", (
        NOTHING,
        part("stem", 1, 6, """
            .fF
            efF
            .fF"""),
        part("witch hat", 0, 3, """
            ..........
            ....uT....
            ...uttT...
            ...cccC...
            uttttttttT"""),
        part("flower", 1, 6, """
            .cc.
            cyyC
            .CC.
            .fF."""),
        part("leafy", 1, 5, """
            .ef.fF
            effffF
            .ffFF."""),
    )),
)

NON_HEROES = (_SLIME, _GHOST, _SKELETON, _BAT, _GOBLIN, _ROBOT, _SPIDER, _EYE, _PUMPKIN)
