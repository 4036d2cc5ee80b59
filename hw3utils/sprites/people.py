"""The art of the heroes (seen from the front) and of the side-facing characters. See `grammar` for the characters.

Heroes stand on a fixed plan: hat rows 1 to 4, face rows 4 to 8, body rows 9 to 14, weapon on the left, shield right.
"""

# One part, one block: the formatter would put every number on a line of its own.
# fmt: off
from .grammar import NOTHING, Kind, Slot, part

_CAPES = (
    NOTHING,
    part("cape", 9, 2, """
        .t........T.
        .t........T.
        ut........TT
        utttttttttTT
        utttttttttTT
        utttttttttTT"""),
)

_BODIES = (
    part("tunic", 9, 3, """
        .nmmmmmmM.
        nm#mmmm#mM
        ss#mmmM#sS
        ..wwyyww..
        ..mm##mM..
        ..ww##wW.."""),
    part("armour", 9, 3, """
        .lgmmmmgG.
        lg#mttM#gG
        ss#gmMG#sS
        ..GwyywG..
        ..lg##gG..
        ..gG##GG.."""),
    part("robe", 9, 3, """
        .nmmttmmM.
        nm#mttm#mM
        ss#mttM#sS
        .nmmttmmM.
        .nmmttmmM.
        nmmmttmmMM"""),
    part("vest", 9, 3, """
        .tmmuumMT.
        ut#muuM#tT
        ss#mttM#sS
        ..wwyyww..
        ..TT##TT..
        ..ww##wW.."""),
    part("stripes", 9, 3, """
        .nmmmmmmM.
        nm#tttT#mM
        ss#mmmM#sS
        ..tttttT..
        ..mm##mM..
        ..ww##wW.."""),
)

_FACES = (
    part("calm", 3, 4, """
        .ssssss.
        zsssssss
        zs#ss#sS
        zs#ss#sS
        ssssssSS
        .ssssSS."""),
    part("smile", 3, 4, """
        .ssssss.
        zsssssss
        zs#ss#sS
        zs#ss#sS
        sps##spS
        .ssssSS."""),
    part("stern", 3, 4, """
        .ssssss.
        zsssssss
        z##ss##S
        zs#ss#sS
        ssssssSS
        .s####S."""),
    part("beard", 3, 4, """
        .ssssss.
        zsssssss
        zs#ss#sS
        hs#ss#sH
        hhhssHHH
        .hhhhHH."""),
)

_HAIR = (
    part("short", 2, 4, """
        .hhhhhh.
        hiihhhhH
        hihhhhhH
        h......H"""),
    part("spiky", 1, 3, """
        ..h..h..h.
        .hhh.hhhh.
        hhiihhhhhH
        .hihshshH.
        hh......HH"""),
    part("long", 2, 3, """
        ..hhhhhh..
        .hiihhhhH.
        hihhsshhHH
        hh......HH
        hh......HH
        hh......HH
        hhh....HHH
        hh......HH"""),
    part("bob", 2, 3, """
        ..hhhhhh..
        .hiihhhhH.
        hihhhhhhHH
        hh......HH
        hh......HH
        .hh....HH."""),
    part("ponytail", 2, 4, """
        .hhhhhh...
        hiihhhhH..
        hihhhsss#h
        h......#hh
        .......#hH
        .......#hH
        ........H."""),
    part("bun", 1, 4, """
        ...hH...
        ..hiHH..
        .h####H.
        hihsshhH
        h......H
        h......H"""),
    part("afro", 1, 3, """
        ..hhhhhh..
        .hiihhhhH.
        hiihhhhhHH
        hihhhhhhHH
        hh......HH
        hh......HH
        .h......H."""),
)

_HATS = (
    NOTHING,
    part("crown", 1, 3, """
        _y__yy__y_
        _yy_yy_yY_
        _xycyycyY_
        .YYYYYYYY."""),
    part("wizard hat", 1, 2, """
        ______mM____
        ____nmmM____
        ___nmmmmM___
        __.tttttT.__
        _nmmmmmmmMM_"""),
    part("helmet", 1, 3, """
        ___lttg___
        __lgttgG__
        _lggttggG_
        _ggggggGG_"""),
    part("horned helmet", 1, 2, """
        o__________o
        oo__lgg___oO
        _oolggggGoO_
        __lgggggGG__
        __GGGGGGGG__"""),
    part("cap", 1, 3, """
        ___nmmm___
        __nmmmmM__
        _nmmttmmM_
        nttttttttT"""),
    part("straw hat", 1, 1, """
        _____xyy______
        ____xyyyY_____
        ___.tttttT.___
        _xyyyyyyyyyYY_"""),
    part("feather hat", 0, 3, """
        __________
        _______rr_
        ___nmmrr__
        __nmmmrM__
        mmmmmmmmMM"""),
    part("headband", 3, 4, """
        tttttttT
        hshhhshH"""),
)

_WEAPONS = (
    NOTHING,
    part("sword", 3, 1, """
        .l.
        .lg
        .lg
        .lg
        .lg
        .lg
        yyyY
        .wss
        .y"""),
    part("axe", 3, 1, """
        lgw.
        lggg
        lggg
        lgwG
        ..w.
        ..w.
        ..w.
        ..ss
        ..W.
        ..W."""),
    part("staff", 2, 1, """
        .cc
        cdcC
        cccC
        .CC
        .w
        .w
        .w
        .w
        .wss
        .w
        .W
        .W"""),
    part("bow", 4, 1, """
        .ww
        vw#o
        w##o
        w##o
        w##o
        wss#
        W##o
        WW#o
        .WW"""),
    part("spear", 1, 1, """
        .l
        .lg
        .lG
        .t
        .w
        .w
        .w
        .w
        .w
        .wss
        .w
        .w
        .W
        .W"""),
    part("hammer", 4, 1, """
        lggG
        lggG
        lggG
        .w
        .w
        .w
        .wss
        .W
        .W"""),
    part("torch", 4, 1, """
        .c
        .cc
        cdC
        cdC
        .w
        .w
        .wss
        .W"""),
)

_OFFHANDS = (
    NOTHING,
    part("round shield", 9, 10, """
        .tt.
        utyT
        tyyT
        ttyT
        .TT."""),
    part("kite shield", 8, 10, """
        llgG
        ltTG
        lyyG
        ltTG
        ltTG
        .GG."""),
    part("book", 9, 10, """
        oooo
        urrR
        uryR
        urrR"""),
)

_ADVENTURER = Kind(
    "adventurer",
    "hero",
    (
        Slot("cape", _CAPES),
        Slot("body", _BODIES, outlined=True),
        Slot("face", _FACES),
        Slot("hair", _HAIR),
        Slot("hat", _HATS),
        Slot("weapon", _WEAPONS, outlined=True),
        Slot("offhand", _OFFHANDS, outlined=True),
    ),
    weight=3.0,
)

_KNIGHT_HEADS = (
    part("great helm", 3, 4, """
        .lggggG.
        lgggggGG
        g##gg##G
        lggggggG
        lgg##gGG
        .gg##GG."""),
    part("visor helm", 3, 4, """
        .lggggG.
        lggggggG
        yyyyyyyY
        g######G
        lggyygGG
        .ggggGG."""),
    part("cross helm", 3, 4, """
        .lgyYgG.
        lggyYgGG
        y##yY##Y
        lggyYgGG
        lggyYgGG
        .ggyYGG."""),
)

_CRESTS = (
    NOTHING,
    part("plume", 1, 6, """
        .ttT
        utTT
        .tT."""),
    part("mohawk crest", 1, 5, """
        .tttt
        ututTT"""),
    part("wings", 2, 2, """
        oo........oo
        ooo......ooO
        .oo......oO."""),
    part("horns", 1, 2, """
        o..........O
        oo........oO
        .oo......oO."""),
    part("crown", 1, 4, """
        y..yy..y
        xyyyyyyY
        YYYYYYYY"""),
)

_KNIGHT_BODIES = (
    part("surcoat", 9, 3, """
        .lgmmmmgG.
        lg#nmmM#gG
        gg#mttM#GG
        ..mmttmM..
        ..mm##MM..
        ..gg##GG.."""),
    part("plate", 9, 3, """
        llggggggGG
        lg#lgmG#gG
        gg#gmmG#GG
        ..mmyymM..
        ..lg##gG..
        ..gG##GG.."""),
    part("half and half", 9, 3, """
        .lmmmttTG.
        lg#mmtt#gG
        gg#mmtT#GG
        ..mmmttT..
        ..mm##TT..
        ..gg##GG.."""),
)

_KNIGHT_WEAPONS = tuple(
    part(p.name, p.top, p.left, "\n".join(row.replace("s", "g") for row in p.rows)) if p.rows else p for p in _WEAPONS
)

_KNIGHT = Kind(
    "knight",
    "hero",
    (
        Slot("cape", _CAPES),
        Slot("body", _KNIGHT_BODIES, outlined=True),
        Slot("face", _KNIGHT_HEADS),
        Slot("hat", _CRESTS),
        Slot("weapon", _KNIGHT_WEAPONS, outlined=True),
        Slot("offhand", _OFFHANDS, outlined=True),
    ),
)

_NINJA_HEADS = (
    part("mask", 2, 4, """
        .nmmmmm.
        nmmmmmmM
        mmmmmmmM
        ms#ss#sM
        ms#ss#sM
        mmmmmmMM
        .mmmmMM."""),
    part("headband mask", 2, 4, """
        .nmmmmm.
        nmmmmmmM
        ttttttTT
        ms#ss#sM
        mz#ss#SM
        mmmmmmMM
        .mmmmMM."""),
    part("hood", 1, 3, """
        ...nmmm...
        ..nmmmmM..
        .nmmmmmmM.
        nmmssssmMM
        nms#ss#sMM
        nms#ss#sMM
        .mssssssM.
        .mmssssMM."""),
)

_NINJA = Kind(
    "rogue",
    "hero",
    (
        Slot("cape", _CAPES),
        Slot("body", _BODIES, outlined=True),
        Slot("face", _NINJA_HEADS),
        Slot("weapon", _WEAPONS, outlined=True),
        Slot("offhand", _OFFHANDS, outlined=True),
    ),
)

HEROES = (_ADVENTURER, _KNIGHT, _NINJA)

# Side-facing characters look right; the mirror turns them. Head columns 5 to 11, hat rows 1 to 4.

_SIDE_BODIES = (
    part("standing", 9, 5, """
        .nmmmM.
        .mmnmM.
        .mmnmM.
        .wwwyW.
        ..mmM..
        ..wwww."""),
    part("stride", 9, 4, """
        ..nmmmM..
        ..mmnmM..
        ..mmnmM..
        ..wwwyW..
        .mmM#mmM.
        ww....www"""),
    part("step", 9, 5, """
        .nmmmM..
        .mmnmM..
        .mmnmM..
        .wwwyW..
        .MM#mm..
        W#..www."""),
    part("robe", 9, 4, """
        ..nmmmM..
        ..mmnmM..
        ..mmnmM..
        ..tttttT.
        .nmmmmmM.
        nmmmmmmMM"""),
    part("caped stride", 9, 2, """
        ..utnmmmM..
        .uttmmnmM..
        .uttmmnmM..
        utttwwwyW..
        uttmmM#mmM.
        .tww....www"""),
)

_SIDE_FACES = (
    part("calm", 3, 5, """
        .sssss..
        sssssss.
        sssss#s.
        sssss#sz
        Sssssss.
        .Sssss.."""),
    part("smile", 3, 5, """
        .sssss..
        sssssss.
        sssss#s.
        sssss#sz
        Sssspss.
        .Sss##.."""),
    part("beard", 3, 5, """
        .sssss..
        sssssss.
        sssss#s.
        sssss#sz
        Shhshhh.
        .Hhhhhh."""),
)

_SIDE_HAIR = (
    part("short", 2, 4, """
        ..hhhhh.
        .hhiihhh
        .hhhihhh
        .hhh....
        .Hh.....
        .H......"""),
    part("spiky", 1, 3, """
        ...h.h.h..
        .h.hhhhhh.
        ..hhiihhhh
        hhhhhihsh.
        ..Hhh.....
        .HHh......
        ..H......."""),
    part("long", 2, 3, """
        ...hhhhh.
        ..hhiihhh
        ..hhhihss
        .hhhh....
        .hhhh....
        .hhhh....
        .Hhhh....
        .HHh.....
        .HH......"""),
    part("bob", 2, 4, """
        ..hhhhh.
        .hhiihhh
        hhhhihhs
        hhhhh...
        Hhhhh...
        HHhh....
        .HH....."""),
    part("ponytail", 2, 2, """
        ....hhhhh.
        ...hhiihhh
        hh#hhhihss
        ihh#hh....
        hHh.......
        hH........
        H........."""),
    part("afro", 1, 3, """
        ...hhhhh..
        ..hiihhhh.
        .hiihhhhhh
        .hihhhhhh.
        .hhhhh....
        .Hhhhh....
        ..HHh....."""),
)

_SIDE_HATS = (
    NOTHING,
    part("crown", 1, 4, """
        _y__y__y_
        _yy_yy_y_
        _xycyycY_
        .YYYYYYY."""),
    part("wizard hat", 1, 3, """
        __mM_______
        __nmmM_____
        ___nmmM____
        __tttttT___
        .nmmmmmmMM."""),
    part("helmet", 1, 4, """
        _ttttT___
        tt_lgggg_
        t_lgggggG
        _lggggggG"""),
    part("cap", 1, 4, """
        ___nmmm____
        __nmmmmM___
        _nmmmmmM___
        _ttttttttT_"""),
    part("straw hat", 1, 3, """
        ____xyy____
        ___xyyyY___
        __.tttttT._
        .xyyyyyyyY."""),
    part("headband", 3, 3, """
        ..ttttttT
        tt......."""),
)

_SIDE_WEAPONS = (
    NOTHING,
    part("sword", 4, 10, """
        ...lg
        ...lg
        ...lg
        ..lg
        ..lg
        .yyyy
        sss.
        .y.."""),
    part("staff", 2, 10, """
        ..cc
        .cdcC
        .cccC
        ..CC
        ..w
        ..w
        ..w
        ..w
        ssss
        ..w
        ..W
        ..W"""),
    part("bow", 5, 10, """
        .vw.
        .o#w
        .o#w
        .o#w
        sssw
        .o#w
        .o#W
        .WW."""),
    part("axe", 3, 10, """
        ..wlg
        .gggg
        .gwlg
        ..w..
        ..w..
        ..w..
        ..w..
        ssss.
        ..W..
        ..W.."""),
    part("round shield", 8, 10, """
        .tt.
        utyT
        tyyT
        ttyT
        .TT."""),
    part("lantern", 8, 10, """
        .....
        sssgg
        ...d.
        ..cdc
        ..ccC
        ..gG."""),
)

_WALKER = Kind(
    "walker",
    "side-facing",
    (
        Slot("body", _SIDE_BODIES),
        Slot("face", _SIDE_FACES),
        Slot("hair", _SIDE_HAIR),
        Slot("hat", _SIDE_HATS),
        Slot("weapon", _SIDE_WEAPONS, outlined=True),
    ),
    mirrored=True,
    weight=4.0,
)

_COATS = ("orange", "yellow", "brown", "grey", "blue", "pink", "red", "purple", "teal", "green")

_DOG = Kind(
    "dog",
    "side-facing",
    (
        Slot("body", (
            part("standing", 2, 1, """
                ......nmmm...
                .....MnmmmM..
                ....MMmm#moo.
                mm..MMmmmoo##
                .mm.MMmmmmooO
                .mm..MmmmmM..
                .mnnnnmmmmM..
                ..nmmmmmmmM..
                ..mmmmmmmmM..
                ..mMMMMMMmM..
                ..mM.M.mMmM..
                ..mMmM.mMmM.."""),
            part("running", 2, 1, """
                ......nmmm...
                .....MnmmmM..
                ....MMmm#moo.
                mm..MMmmmoo##
                .mm.MMmmmmooO
                .mm..MmmmmM..
                .mnnnnmmmmM..
                ..nmmmmmmmM..
                ..mmmmmmmmmm.
                .mmMMMMMMmmmm
                mmM.......mMM
                mM.........mM"""),
            part("sitting", 2, 1, """
                ......nmmm...
                .....MnmmmM..
                ....MMmm#moo.
                ....MMmmmoo##
                ....MMmmmmooO
                .....MmmmmM..
                ....nnmmmmM..
                ...nmmmmmmM..
                m..nmmmmmmM..
                mmnmmmmMmmM..
                .mmmmmMMmmM..
                ..MmmmM#mmM.."""),
        )),
        Slot("extra", (
            NOTHING,
            part("patch", 8, 3, """
                oo.
                ooo
                .oO"""),
        )),
        Slot("hat", (
            NOTHING,
            part("bandana", 7, 6, """
                tttT
                .tT."""),
            part("party hat", 1, 7, """
                _tu_
                utTT"""),
        )),
    ),
    colours={"main": _COATS},
    shifts=((0, 0), (1, 0)),
    mirrored=True,
)

_CAT = Kind(
    "cat",
    "side-facing",
    (
        Slot("body", (
            part("walking", 3, 1, """
                ......m..m...
                m.....mm.mm..
                m.....nmmmmm.
                mm....m#mm#m.
                .m....mmpmmm.
                .mm.nnmmmmM..
                ..mnmmmmmmm..
                ..mmmmmmmm...
                ..MmmMMmmM...
                ..mM#mMm#mM..
                ..mM...mM...."""),
            part("sitting", 3, 1, """
                ......m..m...
                ......mm.mm..
                ......nmmmmm.
                ......m#mm#m.
                ......mmpmmm.
                .....nmmmmM..
                mm..nmmmmmm..
                .m.nmmmmmmm..
                .mMmmmmmmmm..
                ..MmmmM#m#m..
                ..MMmmM#m#m.."""),
        )),
        Slot("extra", (
            NOTHING,
            part("stripes", 8, 5, """
                M.M
                M.M
                M.M"""),
            part("socks", 12, 3, """
                oo...oo
                oO...oO"""),
        )),
        Slot("hat", (
            NOTHING,
            part("collar", 8, 7, """
                tttt
                .yy."""),
            part("crown", 1, 7, """
                ....
                y.yy
                yyyY"""),
        )),
    ),
    colours={"main": _COATS},
    shifts=((0, 0), (1, 0)),
    mirrored=True,
)

_BIRD = Kind(
    "bird",
    "side-facing",
    (
        Slot("body", (
            part("hen", 3, 1, """
                ........nmm...
                .......nmmmm..
                .......mm#mmyy
                mm.....mmmmyY.
                nmm..nnmmmm...
                mmmmnmmmmmm...
                .mmmmmmmmmm...
                .MmmmmmmmmM...
                ..MMmmmmMM....
                ....MMMM......
                .....y#y......
                ....yy#yy....."""),
            part("duck", 3, 1, """
                ........nmm...
                .......nmmmm..
                .......mm#mmyy
                .......mmmmyyY
                m......mmmM...
                mmm.nnnmmm....
                mmmmnmmmmmm...
                .mmmmmmmmmm...
                .MMmmmmmmMM...
                ..MMMMMMMM....
                .....y#y......
                .....yyyy....."""),
        )),
        Slot("extra", (
            part("wing", 8, 4, """
                uttT
                tttT
                .TT."""),
            part("wing up", 6, 2, """
                ut....
                uttt..
                .tttT.
                ..TT.."""),
            part("feathers", 8, 4, """
                ututT
                .TtT."""),
        )),
        Slot("hat", (
            NOTHING,
            part("comb", 1, 8, """
                .r.r.
                .rrrR"""),
            part("crest", 1, 6, """
                .cc..
                ..ccC
                ...C."""),
            part("top hat", 1, 8, """
                .gGG.
                gGGGG"""),
        )),
    ),
    mirrored=True,
)

_HORSE = Kind(
    "horse",
    "side-facing",
    (
        Slot("body", (
            part("standing", 2, 1, """
                .........m....
                ........hnm...
                .......hhmmmm.
                .......hm#mmmm
                .......hmmmmmM
                hh....hhmmMM..
                hhnmmmmmmm....
                hmmmmmmmmm....
                hmmmmmmmmM....
                hmmmMMMmmM....
                .mM#mM#mMm....
                .mM#M..mM.m...
                .HH....HHHH..."""),
            part("trotting", 2, 1, """
                .........m....
                ........hnm...
                .......hhmmmm.
                .......hm#mmmm
                .......hmmmmmM
                hh....hhmmMM..
                hhnmmmmmmm....
                hmmmmmmmmm....
                hmmmmmmmmmm...
                hmmmMMMmmMmm..
                mmM.mM.mM..mm.
                mM...M..mM....
                HH......HH...."""),
        )),
        Slot("extra", (
            NOTHING,
            part("saddle", 7, 4, """
                uttT
                ttyT
                .TT."""),
            part("wing", 5, 3, """
                oo...
                ooo..
                qooo.
                .ooOO"""),
        )),
        Slot("hat", (
            NOTHING,
            part("unicorn horn", 1, 10, """
                ...y
                ..y."""),
            part("bridle", 4, 8, """
                ...r
                ...r
                rrrr"""),
        )),
    ),
    colours={"main": (*_COATS, "sky", "lime")},
    mirrored=True,
)

SIDE_FACING = (_WALKER, _DOG, _CAT, _BIRD, _HORSE)
