"""The art of the food and of the spells. See `grammar` for the meaning of the characters."""

# One part, one block: the formatter would put every number on a line of its own.
# fmt: off
from .grammar import NOTHING, Kind, Slot, part

# Things are drawn within rows and columns 2 to 13, so that they can be moved by one pixel each way.
_SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))


def _food(name, shapes, extras=(), *, mirrored=True, **colours):
    slots = [Slot("body", shapes)]
    if extras:
        slots.append(Slot("extra", extras))
    return Kind(name, "food", tuple(slots), colours=colours, shifts=_SHIFTS, mirrored=mirrored)


_FRUIT = ("red", "orange", "yellow", "lime", "green", "pink", "purple")
_BAKED = ("brown", "orange", "yellow", "pink", "grey")

_APPLE = _food(
    "apple",
    (
        part("whole", 4, 3, """
            .nmm..mmm.
            nnmmmmmmmM
            nmmmmmmmmM
            mmmmmmmmmM
            mmmmmmmmmM
            mmmmmmmmMM
            .mmmmmmMM.
            .MmmmmMMM.
            ..MM..MM.."""),
        part("bitten", 4, 3, """
            .nmm..mm..
            nnmmmmmm..
            nmmmmmdd..
            mmmmmmd...
            mmmmmmdd..
            mmmmmmmmM.
            .mmmmmmMM.
            .MmmmmMMM.
            ..MM..MM.."""),
        part("tall", 4, 3, """
            ..nmmmmM..
            .nnmmmmM..
            .nmmmmmmM.
            nnmmmmmmMM
            nmmmmmmmmM
            mmmmmmmmmM
            mmmmmmmmMM
            .mmmmmMMM.
            ..MMMMMM.."""),
        part("core", 4, 3, """
            .nmmmmmmM.
            ..dddddC..
            ...ddcC...
            ...d#cC...
            ...dc#C...
            ...ddcC...
            ..dddccC..
            .nmmmmmMM.
            ..MMMMMM.."""),
    ),
    (
        part("stem", 2, 7, """
            .W
            w."""),
        part("leaf", 2, 7, """
            .tuT
            wtT."""),
        part("two leaves", 2, 4, """
            ut..utT
            .tTwtT."""),
        part("curly stem", 2, 6, """
            ww.tu
            .wtT."""),
    ),
    main=_FRUIT,
)

_CHERRY = _food(
    "cherries",
    (
        part("pair", 2, 2, """
            .......ww...
            .....ww.w...
            ....w...w...
            ...w....w...
            .nmm...nmm..
            nnmmM.nnmmM.
            nmmmM.nmmmM.
            mmmMM.mmmMM.
            .MMM...MMM.."""),
        part("uneven pair", 2, 2, """
            ......ww....
            .....w.w....
            ....w..w....
            ...w...w....
            .nmm...w....
            nnmmM.nmm...
            nmmmMnnmmM..
            mmmMMnmmmM..
            .MMM.mmmMM..
            ......MMM..."""),
        part("three", 2, 2, """
            .....www....
            ....w.w.w...
            ...w..w..w..
            .nmm..w.nmm.
            nnmmM.wnnmmM
            nmmMM.wnmmMM
            .MMM.nmmMMM.
            ....nnmmM...
            ....nmmMM...
            .....MMM...."""),
    ),
    (
        NOTHING,
        part("leaf", 2, 9, """
            tuuu
            .TtT"""),
        part("two leaves", 2, 4, """
            utt..tut
            TT....TT"""),
        part("bow", 2, 7, """
            cd.dc
            cdCcC
            C...C"""),
    ),
    main=_FRUIT,
)

_BANANA = _food(
    "banana",
    (
        part("single", 2, 2, """
            ........wW..
            ........nm..
            ........nmm.
            .......nmmM.
            .......nmmM.
            ......nmmmM.
            .....nmmmMM.
            ...nnmmmmM..
            Wnnmmmmmm...
            wmmmmmMM....
            ..MMMM......"""),
        part("bunch", 2, 2, """
            ......wW....
            .....wwW....
            ....nmnmM...
            ...nmMnmmM..
            ..nmM.nmmM..
            .nmmM.nmmmM.
            .nmM..nmmmM.
            nmmM..nmmmM.
            nmM...nmmM..
            mmM..nmmM...
            WM...WMM...."""),
        part("peeled", 2, 2, """
            .....oo.....
            ....qoOO....
            ....qooO....
            ....qooO....
            .nn.qooO.MM.
            nmmmqooOmmMM
            nm.mmmmmM.mM
            nm.nmmmmM.mM
            ...nmmmM....
            ....nmM.....
            .....WW....."""),
    ),
    (
        NOTHING,
        part("sticker", 9, 7, """
            tu
            TT"""),
        part("flower", 11, 10, """
            .c.
            cdc
            .C."""),
    ),
    main=("yellow", "lime", "orange", "green", "pink"),
)

_CARROT = _food(
    "carrot",
    (
        part("slanted", 2, 2, """
            ............
            .......nm...
            .....nnmmm..
            ....nnmmmM..
            ....nmM#mM..
            ...nmmmmM...
            ..n#mmmM....
            ..nmmmM.....
            .nmm#M......
            .mmM........
            mM.........."""),
        part("straight", 5, 4, """
            .nmmmM..
            nnmmmmM.
            nmmmm##.
            .nmmmM..
            .n##mM..
            .nmmmM..
            ..mmM...
            ..mmM...
            ...M...."""),
        part("stubby", 5, 3, """
            .nnmmmmM..
            nnmmmmmmM.
            nm##mmmmM.
            .nmmmm#M..
            ..nmmmM...
            ...#mM....
            ....M....."""),
    ),
    (
        part("tops", 2, 7, """
            ..f.f.
            .ef.fF
            ..efF.
            ..fF.."""),
        part("bushy tops", 2, 6, """
            .ff.ff
            efeffF
            .efffF
            ..fF.."""),
        part("ribboned tops", 2, 6, """
            .ff.ff
            .efefF
            .tuutT
            ..tT.."""),
    ),
    main=("orange", "red", "yellow", "purple", "pink"),
)

_BREAD = _food(
    "bread",
    (
        part("toast", 3, 2, """
            .nnmm..mmmM.
            nnmmmmmmmmmM
            nmtuttttttmM
            .mtttttttTM.
            .nttttttttM.
            .nttttttttM.
            .nttttttttM.
            .ntttttttTM.
            .mTTTTTTTTM.
            .MMMMMMMMMM."""),
        part("loaf", 5, 2, """
            ..nnnmmmmm..
            .nnmtmtmtmM.
            nnmtmtmtmmmM
            nmmmmmmmmmmM
            mmmmmmmmmmMM
            mmmmmmmmmMMM
            .MMMMMMMMMM."""),
        part("baguette", 2, 2, """
            ........nmm.
            .......nmtmM
            ......nmtmmM
            .....nmtmmM.
            ....nmtmmM..
            ...nmtmmM...
            ..nmtmmM....
            .nmtmmM.....
            nmtmmM......
            nmmmM.......
            .MMM........"""),
        part("croissant", 4, 2, """
            ....nnmm....
            ..nnmtnmmM..
            .nmmtmmtmmM.
            .nmtmmmmtmM.
            nmmtmMMmtmmM
            nmtmM..MmtmM
            nmmM....MmmM
            .mM......mM."""),
    ),
    (
        NOTHING,
        part("butter", 6, 6, """
            dcc
            ccC"""),
        part("jam", 6, 5, """
            ..rr
            rprr
            .rrR"""),
    ),
    main=_BAKED,
)

_CHEESE = _food(
    "cheese",
    (
        part("wedge", 3, 2, """
            ........nn..
            ......nnmm..
            ....nnmmmmM.
            ..nnmmmmmmM.
            nnmmmmmmmmmM
            tttttttttttT
            mmMMmmmmmmmM
            mmMMmmmMMmmM
            mmmmmmmMMmMM
            mmmMmmmmmmMM"""),
        part("wheel", 4, 2, """
            ...nnnmmm...
            .nnmmmmmmmM.
            nmmmMMmmmmmM
            mmmmmmmmMmmM
            tmmmmmmmmmmT
            ttttttttttTT
            utttttttttTT
            .ttttttttTT.
            ...TTTTTT..."""),
        part("slice", 4, 2, """
            nnnmmmmmmmmM
            nmmmmmMMmmmM
            nmMMmmMMmmmM
            mmMMmmmmmmmM
            mmmmmmmmMmmM
            mmmmMmmmmmmM
            mmmmmmmmmMMM
            tttttttttttT"""),
    ),
    (
        NOTHING,
        part("mouse bite", 7, 2, """
            __
            __
            _."""),
        part("flag", 2, 6, """
            wcd
            wccC
            w..."""),
    ),
    main=("yellow", "orange", "lime", "brown", "pink"),
)

_MEAT = _food(
    "meat",
    (
        part("drumstick", 2, 2, """
            .....nnmm...
            ....nnmmmm..
            ...nnmmmmmM.
            ...nmmmmmmM.
            ...mmmmmmmM.
            ...mmmmmmMM.
            ...mmmmmMM..
            ..ooMMMMM...
            oooO........
            oOo.........
            .oO........."""),
        part("ham", 3, 2, """
            ...nnmmmmM..
            .nnmmmtttMM.
            nnmmmtuutTMM
            nmmmmtuqtTMM
            mmmmmttttTMM
            mmmmmmtTTMM.
            .mmmmmmMMM..
            ..MMMMMMMoo.
            ........oooO
            .........oO."""),
        part("steak", 4, 2, """
            ..nnttttt...
            .nmmmmmmmtt.
            nmmoommmmmtT
            nmmoOmmmmmmT
            tmmmmmmmmmmT
            tmmmmmmmmmMT
            .ttmmmmmMMT.
            ...tTTTTTT.."""),
        part("bone-in joint", 4, 2, """
            ...nnnmm....
            oonnmmmmMoo.
            qonmmmmmmoO.
            ..nmmmmmmM..
            ..mmmmmmmM..
            ..mmmmmmMM..
            ...MMMMMM..."""),
    ),
    (
        NOTHING,
        part("herb", 7, 7, """
            c..
            .cC
            c.."""),
        part("grill marks", 6, 6, """
            M.M.M
            M.M.M
            M.M.M"""),
    ),
    main=("brown", "red", "orange", "pink", "purple"),
)

_FISH = _food(
    "fish",
    (
        part("fish", 4, 2, """
            ...tttt.....
            ..nnmmmm..tt
            .nnmmmmmmttT
            n#nmmMmMmmT.
            nnmmMmMmmmT.
            mmmmmMmMmttT
            .ommmmmm..tT
            ...oOTT....."""),
        part("round fish", 3, 2, """
            ....ttt.....
            ...tttt.....
            ..nnmmmm.tt.
            .nnmmmmmmtt.
            n#nmmttmmmT.
            nnmmmttmmmT.
            mmmmmttMMtt.
            .ommmmMM.tT.
            ..ooOOO.....
            ....TT......"""),
        part("fish bones", 4, 2, """
            ..nmm.......
            .nmmm.o.o.tt
            nmm#m.o.otT.
            nmmmmooooot.
            mmmmM.O.OtT.
            .mmM..O.O.tT
            ..MM........"""),
    ),
    (
        NOTHING,
        part("bubble", 2, 2, """
            dc
            cC"""),
        part("lemon", 10, 9, """
            .yyy.
            yxyyY
            .YYY."""),
    ),
)

_CAKE = _food(
    "cake",
    (
        part("slice", 4, 2, """
            .......uttt.
            ....uuttttt.
            .uutttttttT.
            tttttttttttT
            nmmmmmmmmmmM
            nmmmmmmmmmmM
            ttttttttttTT
            nmmmmmmmmmmM
            MMMMMMMMMMMM"""),
        part("whole cake", 5, 2, """
            ..utttttttt.
            utttttttttTT
            uttTtttTttTT
            ntTmtTTmtTMM
            nmmmmmmmmmMM
            ccccccccccCC
            nmmmmmmmmmMM
            .MMMMMMMMMM."""),
        part("cupcake", 4, 3, """
            ...utt....
            .uuttttT..
            .uttttTTT.
            utttttttTT
            uttttttTTT
            .TTTTTTTT.
            .nmMmMmMM.
            .nmMmMmMM.
            ..mMmMmM..
            ..mMmMmM.."""),
        part("donut", 4, 2, """
            ...utttt....
            .uuttttttt..
            uutttttttttT
            utttt##ttttT
            uttt#..#tttT
            tttTT##TTttT
            mTtmTTtTmTTM
            nmmmmmmmmmMM
            .MmmmmmmMM.."""),
    ),
    (
        NOTHING,
        part("cherry", 2, 7, """
            pr.
            rrR"""),
        part("candle", 2, 8, """
            y
            c
            c"""),
        part("sprinkles", 6, 5, """
            c..y.
            .y..c"""),
    ),
    main=("brown", "yellow", "pink", "orange", "red"),
)

_MUSHROOM = _food(
    "mushroom",
    (
        part("toadstool", 3, 2, """
            ....nmmm....
            ..nnmmmmmM..
            .nnmttmmmmM.
            nnmmttmmttmM
            nmmmmmmmttmM
            mttmmmmmmmMM
            .MMMMMMMMMM.
            ....qooO....
            ....qooO....
            ....qooO....
            ....OOOO...."""),
        part("tall mushroom", 2, 3, """
            ...nmmM...
            ..nmmmmM..
            .nmttmmmM.
            .nmttmtmM.
            nmmmmmmmMM
            nmtmmttmMM
            .MMMqoMMM.
            ....qoO...
            ....qoO...
            ....qoO...
            ...qooO..."""),
        part("two mushrooms", 3, 2, """
            ...nmmM.....
            ..nmtmmM....
            .nmmmmtmM...
            .mtmmmmMM...
            ..MMqOMMnmM.
            ....qO.nmtmM
            ....qO.mmmmM
            ....qO.MMMM.
            ....qO..qO..
            ....OO..OO.."""),
    ),
    (
        NOTHING,
        part("grass", 12, 3, """
            f.f....f.f
            ffF...ffFF"""),
        part("snail", 11, 10, """
            .cc
            cdC
            wwww"""),
    ),
)

_ICE_CREAM = _food(
    "ice cream",
    (
        part("cone", 3, 4, """
            ..nmmM..
            .nnmmmM.
            nnmmmmmM
            nmmmmmmM
            .MmMMmM.
            .vwWwWW.
            .vWwWwW.
            ..wwWW..
            ..wWwW..
            ...ww...
            ...WW..."""),
        part("double cone", 2, 4, """
            ..utT...
            .utttT..
            .ttttT..
            .nmmmmM.
            nnmmmmmM
            nmmmmmMM
            .vwWwWW.
            .vWwWwW.
            ..wwWW..
            ..wWwW..
            ...wW..."""),
        part("ice lolly", 2, 4, """
            ..nmmM..
            .nnmmmM.
            .nmmmmM.
            .nmmmmM.
            .ntmtmT.
            .ttttTT.
            .uttttT.
            .ttttTT.
            ...vw...
            ...vw...
            ...wW..."""),
        part("sundae", 3, 3, """
            ..nmmutT..
            .nmmmuttT.
            nnmmuttttT
            nmmmMttttT
            gggggggggG
            .llccccgG.
            .lgcccCgG.
            ..lgccgG..
            ....gG....
            ..lgggGG.."""),
    ),
    (
        NOTHING,
        part("wafer", 2, 9, """
            .vw
            vwW
            vW."""),
        part("cherry", 2, 6, """
            pr
            rR"""),
        part("drip", 6, 5, """
            cd.cc
            c..cC
            C...."""),
    ),
)

_MELON = _food(
    "melon",
    (
        part("slice", 5, 2, """
            fommmmmmmmof
            fonmm#mm#mof
            fommmmmmmmof
            .fom#mm#mof.
            .fFommmmofF.
            ..fFooooFF..
            ....FFFF...."""),
        part("wedge", 3, 2, """
            .....nm.....
            ....nnmm....
            ....nm#m....
            ...nmmmmM...
            ...m#mmmM...
            ..nmmm#mmM..
            ..mm#mmm#M..
            .qoooooooOO.
            .eefffffffF.
            ..FFFFFFFF.."""),
        part("whole", 3, 2, """
            ...ntmtMt...
            .nntmttMtM..
            .nmtmttMmtM.
            nmttmmtMmttM
            nmtmmmtMmmtM
            nmttmmtMmttM
            .mmtmttMmtM.
            .mmtmttMtMM.
            ...MtMtMT..."""),
    ),
    (
        NOTHING,
        part("straw", 2, 9, """
            .cd
            cC.
            c..
            c.."""),
        part("flower", 10, 3, """
            .y.
            ycy
            .Y."""),
    ),
    main=("red", "pink", "orange", "yellow", "purple"),
)

_BERRY = _food(
    "berry",
    (
        part("strawberry", 4, 3, """
            .nmmmmmmM.
            nnmymmymmM
            nmmmmmmmmM
            mymmymmymM
            .mmmmmmMM.
            .mmymmyMM.
            ..mmmmMM..
            ...mmMM...
            ....MM...."""),
        part("grapes", 4, 3, """
            .nmMnmnmM.
            nmmMmMmmMM
            .MMnmMMMM.
            .nmmmMnmM.
            .mMnmMmMM.
            ..nmmMMM..
            ..mMnmM...
            ....mMM...
            ....MM...."""),
        part("raspberry", 4, 3, """
            .nmMnmMnM.
            nmMnmMnmMM
            mMnmMnmMmM
            nmMmmMmmMM
            .MnmMnmMM.
            .nmMnmMmM.
            ..MnmMMM..
            ...MmMM..."""),
        part("pear", 3, 3, """
            ....nm....
            ...nmmM...
            ...nmmM...
            ..nmmmmM..
            .nnmmmmmM.
            nnmmmmmmmM
            nmmmmmmmMM
            mmmmmmmMMM
            .mmmmmMMM.
            ..MMMMMM.."""),
    ),
    (
        part("leaves", 2, 4, """
            .ttwut.
            utttttT
            .T.T.T."""),
        part("stem", 2, 6, """
            .wu
            tTtT"""),
        part("flower", 2, 6, """
            .dc.
            dyyc
            .cC."""),
    ),
    main=_FRUIT,
)

FOOD = (_APPLE, _CHERRY, _BANANA, _CARROT, _BREAD, _CHEESE, _MEAT, _FISH, _CAKE, _MUSHROOM, _ICE_CREAM, _MELON, _BERRY)


def _spell(name, shapes, extras=(), *, mirrored=True, **colours):
    slots = [Slot("body", shapes)]
    if extras:
        slots.append(Slot("extra", extras))
    return Kind(name, "spell", tuple(slots), colours=colours, shifts=_SHIFTS, mirrored=mirrored)


_SPARKS = (
    NOTHING,
    part("sparks", 2, 2, """
        d.........d."""),
    part("low sparks", 11, 2, """
        d..........d"""),
)

_FLAME = _spell(
    "flame",
    (
        part("camp fire", 2, 3, """
            .....m....
            ....mm....
            ....mmm...
            .m.mmmmm..
            .mmmtttmm.
            mmmttttmm.
            mmttuutmmM
            mmtuuuttmM
            Mmtuuuttmm
            .Mtuuutmm.
            ..MMttMM.."""),
        part("fire ball", 3, 2, """
            .......mm...
            ....mmmm..m.
            ..mmmmmmmm..
            .mmttttmm...
            mmtuuutmmmm.
            mtuuuuttmm..
            mtuuuutmmmmm
            mmtuuttmmm..
            .mmtttmm.mm.
            ..MMmmmmm..."""),
        part("wisp", 2, 3, """
            ....m.....
            ...mm.....
            ..mmmm....
            ..mmmmm...
            .mmttmmm..
            mmttttmmm.
            mtuuuuttmm
            mt#uu#ttmM
            mtuuuuttmM
            .mmtttmmM.
            ..MMMMMM.."""),
    ),
    (
        NOTHING,
        part("logs", 12, 3, """
            vw#ww#wwwW
            .WW#vvWW#."""),
        part("sparks", 2, 3, """
            d........d"""),
    ),
)

_ICE = _spell(
    "ice",
    (
        part("crystal", 2, 4, """
            ...nm...
            ..nnmM..
            .nnmmMM.
            .nnmmMM.
            .nnmmMM.
            .ntmmTM.
            .nntmTM.
            .nnmmMM.
            .nnmmMM.
            ..nmmM..
            ...mM..."""),
        part("cluster", 2, 2, """
            .....nM.....
            ....nnmM....
            .n..nnmM....
            nnM.nnmM..m.
            nnmMnnmM.nmM
            nnmMnnmMnnmM
            .nnmMnmMnmM.
            .nnmMnmMnmM.
            ..nmMnmmmM..
            ..tttttttT..
            ...TTTTTT..."""),
        part("snow flake", 2, 2, """
            .....nm.....
            ..n..nm..m..
            ...n.nm.m...
            ....nttm....
            .....tt.....
            nnnttuuttmmm
            mmmttuttTMMM
            .....tt.....
            ....mTTM....
            ...m.mM.M...
            ..m..mM..M..
            .....mM....."""),
        part("icicles", 3, 2, """
            .uuttttttTT.
            utttttttttTT
            nnmmnmmmnmmM
            nmmMnmmMnmmM
            nmmMnmmMnmM.
            nmM.nmmMnmM.
            .mM.nmM.nmM.
            .nM.nmM..nM.
            .M..nmM..M..
            .....mM.....
            .....M......"""),
    ),
    _SPARKS,
)

_LIGHTNING = _spell(
    "lightning",
    (
        part("bolt", 2, 3, """
            ....nnnmm.
            ...nnmmM..
            ...nmmM...
            ..nmmM....
            ..nmmmmmm.
            .nnmmmmM..
            .....nmM..
            ....nmM...
            ....nM....
            ...nM.....
            ...M......"""),
        part("two bolts", 2, 2, """
            ...nm....nm.
            ..nmM...nmM.
            .nmM...nmM..
            .nmmm.nmmM..
            ..nmM.nmmmm.
            .nmM....nmM.
            .nM....nmM..
            nM....nmM...
            M.....nM....
            .....nM.....
            .....M......"""),
        part("storm cloud", 2, 2, """
            ....uutt....
            ..uuttttTt..
            .uttttttttT.
            utttttttttTT
            TTTTTTTTTTTT
            ...nm..nmM..
            ..nmM.nmM...
            ..nmmMnmmmM.
            ....nM..nmM.
            ...nM..nmM..
            ...M...nM..."""),
    ),
    (
        NOTHING,
        part("sparks", 11, 2, """
            c..........c
            .c........c."""),
        part("high sparks", 2, 2, """
            c..........c
            .c........c."""),
        part("ball", 2, 10, """
            dc.
            ccC
            .C."""),
    ),
)

_POTION = _spell(
    "potion",
    (
        part("round", 3, 3, """
            ...gggG...
            ....lg....
            ....lg....
            ..llggGG..
            .ll....gG.
            .lmmmmmmG.
            lnnmmmmmMG
            lnmmmmmmMG
            lnmmmmmMMG
            .lmmmmMMG.
            ..GGGGGG.."""),
        part("flask", 3, 3, """
            ...gggG...
            ....lg....
            ....lg....
            ....lg....
            ...l..G...
            ...nmmM...
            ..lnmmMG..
            .lnnmmmMG.
            .lnmmmmMG.
            lnmmmmmmMG
            GGGGGGGGGG"""),
        part("tall", 3, 4, """
            ..gggG..
            ..lggG..
            .lggggG.
            .lt..tG.
            .lnmmMG.
            .lnmmMG.
            .lnmmMG.
            .lnmmMG.
            .lnmmMG.
            .lmmMMG.
            ..GGGG.."""),
        part("heart", 3, 3, """
            ....gG....
            ....lG....
            .lgG..lgG.
            lg..gg..gG
            lnmmmmmmMG
            lnnmmmmmMG
            .lnmmmmMG.
            ..lnmmMG..
            ...lmMG...
            ....GG...."""),
    ),
    (
        part("cork", 2, 7, """
            vW"""),
        part("stopper", 2, 6, """
            .uT.
            .tT."""),
        part("bubbles", 9, 6, """
            .u.
            ...
            u.t"""),
        part("label", 9, 5, """
            oooooO
            occccO
            oooooO"""),
    ),
)

_ORB = _spell(
    "orb",
    (
        part("ball", 3, 3, """
            ...nmmm...
            .nnnmmmmM.
            .nuummmmM.
            nnuummmmmM
            nmmmmmmmMM
            mmmmmmmmMM
            .mmmmmmMM.
            .MmmmmMMM.
            ...MMMM..."""),
        part("ringed", 3, 2, """
            ....nmmm....
            ..nnnmmmmt..
            ..nnmmmmtt..
            .nnmmmmttmM.
            tnmmmmttmmMt
            ttmmtttmmMtt
            .tttttmmMtt.
            ..mMMMMttt..
            ....MMtt...."""),
        part("eye", 4, 2, """
            ....nmmm....
            ..nnmmmmmM..
            .nmoootoomM.
            nmoottttoomM
            nmoot##toomM
            mmoot##toOMM
            .mmottttOMM.
            ..MMmmmMMM..
            ....MMMM...."""),
        part("yin-yang", 3, 3, """
            ...nmmt...
            .nnmmmttt.
            .nmmmmttT.
            nmmttmmttT
            nmmttmmttT
            nmmmmtttTT
            .mmmttmTT.
            .MmttttTT.
            ...MtTT..."""),
    ),
    (
        NOTHING,
        part("stand", 11, 4, """
            yy....YY
            yyyyyyYY
            .YYYYYY."""),
        part("sparks", 2, 2, """
            .d........d.
            d..........d"""),
        part("swirl", 7, 5, """
            .ddd.
            d..cC
            .C.."""),
    ),
)

_SCROLL = _spell(
    "scroll",
    (
        part("open", 2, 2, """
            .oooooooooO.
            oqOooooooooO
            oOOooooooooO
            .O.ommtmmoO.
            ...oooooooO.
            ...ottmttoO.
            ...oooooooO.
            ...ommttmoO.
            ...oooooooOO
            ..ooooooooqO
            ..OOOOOOOOO."""),
        part("rolled", 5, 2, """
            oo........oo
            qoooonmooooO
            oooootmooooO
            oooootmooooO
            OOOOOtMOOOOO
            OO..tt.tM.OO
            ....T...M..."""),
        part("tome", 3, 3, """
            nmmmmmmmmM
            nttmmmmttM
            ntmmccmmtM
            nmmcddcmmM
            nmmcdccmmM
            nmmmccmmMM
            ntmmmmmmtM
            nttmmmmttM
            MMMMMMMMMM
            .ooooooooO
            .MMMMMMMMM"""),
        part("letter", 4, 2, """
            noooooooooom
            on##oooo##mO
            oon##oo##moO
            ooonm##nmooO
            oooonmmMoooO
            oooottttoooO
            oooootToooOO
            tOOOOOOOOOOT"""),
    ),
    (
        NOTHING,
        part("seal", 10, 9, """
            .cc
            cdcC
            .CC"""),
        part("quill", 2, 10, """
            ..r
            .rr
            rr.
            #.."""),
        part("star", 7, 6, """
            .y.
            yxy
            .Y."""),
    ),
)

_STAR = _spell(
    "star",
    (
        part("star", 2, 2, """
            .....nm.....
            .....nm.....
            ....nnmM....
            nnnnnmmmmmmM
            .nnmmmmmmmM.
            ..nmmmmmmM..
            ..nmmmmmmM..
            ..nmmmmmmM..
            .nmmmMMmmmM.
            .nmM....MmM.
            .M........M."""),
        part("twinkle", 2, 2, """
            .....nm.....
            .....nm.....
            ....nnmM....
            ....nttM....
            ..nnttttMM..
            nnnttuuttmmM
            nmmttuuttMMM
            ..mmttttMM..
            ....mttM....
            ....mmMM....
            .....mM.....
            .....MM....."""),
        part("moon", 2, 3, """
            ...nmm....
            .nnmm.....
            .nmm......
            nnm.......
            nmm.......
            nmm......m
            mmmm....mM
            .mmmmmmmM.
            .MmmmmmMM.
            ...MMMM..."""),
        part("sun", 2, 2, """
            .....nm.....
            .n...nm...m.
            ..n......m..
            ....uttt....
            ...uutttT...
            nn.uttttT.mM
            nm.uttttT.MM
            ...tttttT...
            ....TTTT....
            ..m......M..
            .m...mM...M.
            .....MM....."""),
        part("comet", 2, 2, """
            t..........t
            .tt...t..tt.
            ..ut..utttt.
            ...uttuttt..
            ....nnmmttt.
            ...nnmmmmttt
            t.tnnmmmmt..
            .ttnmmmmMtt.
            ..t.mmmM.ttt
            .tt..MM...t.
            .t.........."""),
    ),
    (
        NOTHING,
        part("face", 6, 6, """
            #..#
            #..#
            .##."""),
        part("small star", 2, 11, """
            .c.
            cdc
            .C."""),
        part("sparks", 2, 2, """
            d..........d"""),
    ),
)

_SWIRL = _spell(
    "swirl",
    (
        part("tornado", 2, 2, """
            .nnmmmmmmmM.
            nnttttttttmM
            .MMMMMMMMMM.
            ..nmttttmmM.
            ...MMMMMMM..
            ..nmtttmM...
            ...MMMMM....
            ....nmtmM...
            ....MMMM....
            ...nmM......
            ...MM......."""),
        part("spiral", 2, 2, """
            ....nnmmm...
            ..nnmm..mmM.
            .nmm......mM
            .nm..nmm..mM
            nm..nmmmm.mM
            nm..nm.mM.mM
            nm..nm....mM
            nmm..mm..mM.
            .mm..mmmmM..
            ..mmm..MM...
            ...MmmMM...."""),
        part("wave", 3, 2, """
            ....nnnmm...
            ..nnttttmm..
            .nntuu.ttmM.
            .ntu....tmM.
            nntu..ttmM..
            nmtt...mM...
            nmmtt.......
            mmmmtttt..tt
            mmmmmmmtttmM
            MMMMMMMMMMMM"""),
    ),
    (
        NOTHING,
        part("leaf", 11, 9, """
            .cd
            ccC
            c.."""),
        part("sparks", 2, 2, """
            d..........d"""),
        part("low sparks", 12, 2, """
            d..........d"""),
    ),
)

_WAND = _spell(
    "wand",
    (
        part("wand", 4, 2, """
            .......nm...
            ......nmM...
            .....nmM....
            ....nmM.....
            ...nmM......
            ..nmM.......
            .nmM........
            .mM........."""),
        part("banded wand", 4, 2, """
            .......uT...
            ......utT...
            .....nmM....
            ....nmM.....
            ...utT......
            ..nmM.......
            .utT........
            .tT........."""),
        part("sceptre", 4, 2, """
            ......nmm...
            .....nmmM...
            .....nmM....
            ....yyM.....
            ...nmY......
            ..nmM.......
            yymM........
            yxY.........
            .YY........."""),
    ),
    (
        part("star", 2, 8, """
            ..d..
            ddcc.
            .dcC.
            .d.C."""),
        part("gem", 2, 9, """
            .dc.
            ddcC
            dccC
            .CC."""),
        part("flower", 2, 8, """
            .t.t.
            tudut
            .dcC.
            TtCtT
            .T.T."""),
        part("heart", 2, 8, """
            pr.rr
            prrrR
            .rrR.
            ..R.."""),
        part("flame", 2, 9, """
            .c..
            .cc.
            cddC
            cddC
            .CC."""),
    ),
)

_CREST = _spell(
    "crest",
    (
        part("shield", 2, 3, """
            nnmmmmmmmM
            nttttttttM
            ntmmmmmmtM
            ntmmmmmmtM
            ntmmmmmmtM
            ntmmmmmmtM
            ntmmmmmmtM
            nttmmmmttM
            .mtttttTM.
            ..mmttMM..
            ....MM...."""),
        part("heart", 3, 2, """
            ..nmm..mmm..
            .nnmmmmmmmM.
            nnmmmmmmmmmM
            nmmmmmmmmmmM
            mmmmmmmmmmmM
            mtmmmmmmmmtM
            .ttmmmmmmtM.
            ..ttmmmmtM..
            ...ttmmTM...
            ....tTTM....
            .....MM....."""),
        part("rune stone", 2, 3, """
            ..nnmmmM..
            .nnmmmmmM.
            nnmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmmM
            nmmmmmmmMM
            mmmmmmmmMM
            tttttttttT
            TTTTTTTTTT"""),
        part("gem", 3, 2, """
            ..nnnmmmmM..
            .nttmttmtMM.
            nnttmttmtMMM
            tttttttttTTT
            .nnmmmmmmMM.
            ..nnmmmmMM..
            ...nnmmMM...
            ....nmMM....
            .....mM....."""),
    ),
    (
        NOTHING,
        part("cross", 5, 6, """
            .cC.
            dccC
            dccC
            .cC."""),
        part("bolt", 4, 6, """
            ..dc
            .dc.
            dccC
            .cC.
            .C.."""),
        part("eye", 6, 6, """
            .dc.
            d##C
            .cC."""),
        part("arrow", 5, 6, """
            .dc.
            dccC
            .cC.
            .cC."""),
    ),
)

SPELLS = (_FLAME, _ICE, _LIGHTNING, _POTION, _ORB, _SCROLL, _STAR, _SWIRL, _WAND, _CREST)
