"""The words whose class the rules must know: one string of words per class; a word in none of them is a noun."""

from __future__ import annotations

# One letter per class. The grammar (:mod:`prep.phrases.grammar`) is written over strings of these letters.
#
#   d determiner        h possessive pronoun   u pronoun            f stand-in noun (one, thing)
# n noun              p person or animal     k clothing, body     g region (side, corner)   t part or amount
# of c colour            j other adjective      s place word         o ordinal                 m comparison
# 0 number            a adverb               x negation           y chatter v verb -ing         e past
# participle      z finite verb        b form of "be"            q particle (off, up) V verb -ing that takes
# an object w with              I in                   i other preposition  l preposition of a landmark
# (behind, near) O of                T to                   F from               N than r that, which
# R who, whose           & and, or            , break        ' possessive mark
CLASSES: dict[str, str] = {
    "d": "a an the this these those some any each every both all such what whatever whichever",
    "h": "his her its their my your our",
    "u": "he she it they him them himself herself itself themselves i you me us we who's there nobody himself",
    "f": "one ones thing things object objects item items someone somebody anyone anybody anything something "
    "everything everyone everybody nothing none stuff",
    "b": "is are was were be been being am isn't aren't wasn't does do did can could should would will may might "
    "seems seem appears appear looks-like gets",
    "x": "not no without never nor neither isnt arent doesnt dont doesn't don't cannot cant can't wasnt non except "
    "unlike excluding minus besides ignore",
    "O": "of og",
    "T": "to toward towards into onto unto",
    "F": "from frm",
    "N": "than then",
    "w": "with w w/ wit wth featuring having",
    "I": "in inside within iin",
    "l": "behind near nearby beside by below beneath under underneath above between among amongst against "
    "opposite alongside over across around along past before after beyond atop amidst bt btw behing beind",
    "i": "on at through during for as like about via upon aboard per outside onto ontop @ off-of",
    "r": "that which where that's thats when while",
    "R": "who whose whom whos",
    "&": "and or & + n but nd plus / also yet",
    ",": ", ; : . ! ? ( ) - -- ... .. = |",
    "q": "off up down out away over-there forward forwards backward backwards upward downward sideways around-here "
    "together apart alone aside upright upside-down ahead overhead outward open-mouthed indoors outdoors",
    "a": "very really quite slightly almost nearly partially partly mostly completely fully half-way directly just "
    "only barely hardly so too even still already more less most least kinda sorta somewhat totally entirely "
    "immediately right-away exactly close-up halfway way super pretty mainly currently possibly maybe "
    "apparently about-to together-with largely heavily lightly freshly brightly darkly well extremely "
    "almost-completely perhaps probably clearly also-known once neatly closely visibly vertically "
    "horizontally "
    "diagonally slowly actually definitely approximately",
    "y": "please sorry thanks thx thank lol haha hah ok okay hurry click clicked oops um uh hey hi hello yeah yep "
    "yes yay wow again sry plz pls btw lmao wtf damn omg ugh hmm obviously basically hehe argh dude's "
    "ya yo cool-thing ty nevermind guess idk dunno imo",
    "c": "red blue green yellow orange purple pink brown black white gray grey beige tan maroon turquoise teal gold "
    "golden silver navy cream violet magenta crimson aqua khaki burgundy lavender blonde blond brunette "
    "blk wht blu "
    "yello grn whte bluish reddish greenish yellowish brownish greyish grayish pinkish orangish purplish "
    "whitish blackish multicolored multicolor multi-colored colorful colourful colored coloured rainbow camo "
    "camouflage neon peach rust olive ivory charcoal bronze copper lime redish darkest lightest",
    "o": "first second third fourth fifth sixth seventh eighth ninth tenth last next 1st 2nd 3rd 4th 5th 6th 7th 8th "
    "9th 10th other another same only-other final secnd thrid rd nd-one",
    "0": "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen twenty thirty dozen "
    "several many few couple-of zero single double triple hundred",
    "s": "left right middle center centre front back upper lower far rear mid leftmost rightmost topmost "
    "bottommost middlemost uppermost lowermost frontmost centermost foremost top bottom central lft rt "
    "rght rite "
    "lef letf righ leftt rigt middel midle centr cntr frnt bottm botom bottem topp buttom hindmost leftside "
    "rightside backmost left-hand right-hand left-most right-most top-most bottom-most top-left top-right "
    "bottom-left bottom-right upper-left upper-right lower-left lower-right midst nearside farside lefthand "
    "righthand inner outer inside-most north south east west northwest northeast southwest southeast",
    "g": "side sides corner corners row rows edge edges end ends half background foreground distance forground "
    "backround column area section region portion line rank lane position spot place quadrant lhs rhs "
    "center-line "
    "coner conner cornor frame picture-plane screen-side bkgd bg fg",
    "t": "piece pieces pair pairs group groups bunch slice slices part parts lot set stack pile row-of couple kind "
    "type types sort kinds crowd herd flock bit bits chunk cluster portion-of body bodies patch patches "
    "type-of "
    "batch clump string-of peice series handful number",
    "m": "bigger biggest smaller smallest larger largest taller tallest shorter shortest longer longest closer closest "
    "nearer nearest farther farthest further furthest older oldest younger youngest lighter darker higher "
    "highest "
    "lowest thinner thinnest thicker thickest wider widest fatter fattest brighter brightest cleaner "
    "better best "
    "worse worst newer newest heavier skinnier skinniest fuller fullest greener blacker whiter redder "
    "fluffier "
    "chubbier chubbiest sharper narrower deeper softer tinier tiniest littlest prettier happier happiest "
    "rounder flatter emptier closet closes clsoest smallets tallist biger nearst",
    "j": "big small large little tiny huge tall short long wide narrow thin thick fat skinny slim chubby heavy giant "
    "mini medium medium-sized large-sized massive great grand old young elderly new ancient modern "
    "antique vintage "
    "adult bald bearded hairy furry fluffy shaggy curly straight round square rectangular oval circular "
    "triangular "
    "flat curved pointy sharp dull plain fancy ornate simple clean dirty messy wet dry hot cold frozen "
    "fresh raw ripe "
    "rotten empty full open closed shut broken whole complete incomplete bright dark pale shiny glossy matte "
    "transparent clear see-through blurry fuzzy blurred hidden visible nude naked shirtless topless barefoot "
    "happy sad angry funny cute pretty beautiful ugly handsome sexy nice good bad cool weird strange odd "
    "crazy "
    "scary evil creepy gross serious calm quiet loud busy sleepy asleep awake alive dead sick healthy "
    "strong weak "
    "male female asian african american indian chinese japanese caucasian european hispanic oriental "
    "military "
    "wooden metal metallic plastic leather woolen stone concrete ceramic marble brass steel iron "
    "cardboard rubber "
    "denim velvet silk lace linen knit wicker straw electric electronic digital plaid checkered floral "
    "polka-dot "
    "striped stripey stripy stripped spotted dotted patterned solid tie-dye tie-dyed printed "
    "sleeveless strapless lone single-story double-decker own same-colored different similar identical "
    "opposite-side "
    "main primary prominent obvious noticeable important real fake unoccupied occupied vacant nearby-most "
    "lil lttle liitle litle smal bigg blck colord unlit lit ready able available standard professional "
    "upside horizontal vertical diagonal parallel sideways-facing backwards-facing public private grassy "
    "snowy "
    "sandy rocky cloudy sunny muddy dusty leafy bushy wavy woody cheesy creamy crusty crispy crunchy juicy "
    "visable teenage teen middle-aged overweight obese pregnant muscular petite blind famous rich poor "
    "grown wild tame domestic baby-faced extra loose tight lacy silky woolly grumpy unhappy smug proud bored "
    "tired drunk alert afraid attached unknown edible complete partial rear-facing front-facing thirsty "
    "hungry "
    "mature juvenile infant newborn tropical floppy spiky bent crooked uneven stacked mixed assorted various "
    "multiple additional entire",
    "p": "man woman guy girl boy lady kid kids child children baby person people men women guys girls boys ladies "
    "babies toddler toddlers dude dudes gal chick chicks player players batter catcher pitcher umpire ump "
    "hitter "
    "fielder goalie referee ref skier skiers snowboarder snowboarders surfer surfers skater skaters "
    "skateboarder "
    "rider riders cyclist biker bikers cowboy cowboys bride groom mom mother dad father daddy mommy "
    "parent son "
    "daughter brother sister couple grandma grandpa grandmother grandfather wife husband friend friends teen "
    "teenager adult adults human humans male males female females officer cop soldier soldiers waiter "
    "waitress "
    "chef cook barber doctor nurse teacher student students worker workers driver drivers passenger "
    "passengers "
    "pedestrian spectator spectators fan fans audience musician guitarist singer drummer dancer model actor "
    "clown santa ghost king queen prince princess performer vendor salesman businessman gentleman "
    "gentlemen fella "
    "individual individuals character figure figures hiker swimmer runner runners jogger jockey sailor pilot "
    "farmer fisherman fireman firefighter policeman policemen monk nun priest pope president leader member "
    "opponent crew team band pedestrians bystander photographer cameraman coach gymnast wrestler boxer "
    "golfer "
    "horse horses zebra zebras giraffe giraffes elephant elephants cow cows bull bulls calf sheep lamb "
    "lambs goat "
    "goats dog dogs puppy puppies pup cat cats kitten kittens kitty kitteh bear bears polar-bear panda "
    "bird birds "
    "duck ducks goose geese swan swans chicken chickens rooster hen seagull seagulls pigeon pigeons "
    "parrot eagle owl "
    "penguin penguins flamingo fish shark whale dolphin monkey ape gorilla lion lions tiger tigers wolf "
    "fox deer elk "
    "moose camel camels pig pigs rhino hippo rabbit bunny rat mouse-animal squirrel animal animals pony "
    "ponies "
    "donkey mule ram ox oxen bison buffalo turtle snake lizard frog insect bee butterfly cub cubs pet "
    "pets critter "
    "foal colt mare heifer steer ewe kangaroo koala seal seals creature ppl preson persn womn womman wman "
    "grl girrl "
    "gurl chic teddy granny nanny kiddo chap bloke lad lass mam sir officers cops tourist tourists native "
    "natives "
    "hipster nerd bum thug pirate santa-claus snowman mannequin statue-man skiier skiers' boarder racer "
    "bicyclist "
    "motorcyclist bicycler wakeboarder parasailer kayaker rower blondie brunettes ballerina youngster "
    "chinaman "
    "customer customers guest guests worker's shopper pal ped bartender toddlers",
    "k": "shirt shirts tshirt t-shirt tee hat hats cap caps helmet helmets jacket jackets coat coats sweater sweaters "
    "sweatshirt hoodie hoody vest vests suit suits dress dresses skirt skirts pants pant jeans shorts "
    "short-pants "
    "trousers tie ties bowtie scarf glove gloves mitt mittens shoe shoes boot boots sandals sneakers sock "
    "socks belt "
    "glasses sunglasses goggles shades mask hood apron uniform uniforms outfit outfits clothes clothing "
    "costume "
    "robe gown overalls jersey jerseys blouse bikini swimsuit bathing-suit trunks underwear bra tank-top "
    "tanktop "
    "turban bandana headband headphones earphones earring earrings necklace bracelet ring watch wristband "
    "badge "
    "backpack backpacks bookbag purse handbag kimono sari tuxedo tux cardigan pullover fleece parka "
    "poncho cape "
    "shawl veil wig crown tiara beanie sombrero visor cowboy-hat stockings tights leggings slacks capris "
    "pajamas pjs onesie bib diaper snowsuit wetsuit sleeve sleeves collar pocket hair beard mustache "
    "moustache "
    "goatee ponytail pigtails braid braids bun bangs dreads dreadlocks afro mohawk mullet hand hands arm "
    "arms "
    "leg legs foot feet head heads face faces eye eyes ear ears nose mouth lips teeth tongue chin cheek neck "
    "shoulder shoulders chest belly stomach tummy waist hip hips butt ass rear-end rump knee knees elbow "
    "finger fingers thumb fist toe toes skin tail tails trunk tusk tusks horn horns mane fur feather "
    "feathers wing "
    "wings beak paw paws hoof hooves snout whiskers antlers hump torso thigh thighs ankle wrist back-side "
    "boobs "
    "boob breasts forehead sunglass glasess sweather jaket shrit shirst tatoo tattoo tattoos haircut "
    "hairdo lap "
    "neckline lanyard suspenders kneepads shinguards flipflops flip-flops slippers heels nails lipstick "
    "makeup",
    # A past participle that no suffix shows, or that stands behind its noun.
    "e": "dressed seen shown worn held sitten written drawn taken eaten drunken bitten cut half-eaten made built "
    "hung bound tied bent torn left-over stuck lit-up folded turned parked seated cropped cutoff cut-off "
    "off-center "
    "covered topped filled pictured positioned located placed situated mounted leashed drawn thrown blown "
    "grown-up "
    "laid lain caught fed led sliced based facing-away shaped sized dressed-up known swung driven ridden "
    "raised",
    "z": "sits stands wears holds looks watches rides eats walks runs plays jumps hits swings throws catches carries "
    "talks smiles laughs faces leans lies lays sleeps rests drinks cooks cuts uses makes shows has have "
    "had having-a "
    "reads writes drives flies swims skis surfs skates snowboards skateboards kneels crouches squats "
    "bends reaches "
    "touches points waits works prepares serves poses performs moves stares gazes grazes drinks feeds "
    "pulls pushes kicks dribbles pets hugs kisses brushes combs cleans washes opens closes puts takes "
    "gives gets "
    "goes comes contains covers hangs crosses turns raises lifts displays features travels enters exits "
    "falls "
    "blows bites licks chews sniffs stretches wore sat stood held looked rode ate ran lay lying-down says "
    "reads said "
    "wear hold ride eat see sees need needs want wants belongs leads follows appears covers tries walked "
    "sat stood threw caught hit swung kneeled knelt leaned occupies warms squints get go see",
    "v": "standing sitting walking running smiling sleeping flying laying lying resting kneeling crouching squatting "
    "bending leaning jumping skiing surfing skating snowboarding skateboarding swimming grazing looking "
    "staring "
    "gazing laughing talking posing waiting hanging floating sailing moving falling sticking squinting "
    "stretching reaching crossing swinging facing pointing working playing cooking eating drinking "
    "dancing rolling "
    "missing growing shining glowing driving bowing napping snoozing roaming cruising landing ducking sittin "
    "standin walkin settin perching lounging relaxing peeking peering hiding appearing starting going coming "
    "watching traveling towering overlooking wading splashing bathing rowing biking cycling hiking racing "
    "sitng siting stading standng leading matching corresponding running-away",
    "V": "holding wearing carrying riding using pulling pushing throwing catching hitting kicking touching petting "
    "feeding cutting making taking showing reading writing brushing combing washing cleaning opening closing "
    "putting giving getting serving preparing pouring blowing biting licking chewing sniffing lifting "
    "raising "
    "grabbing hugging kissing covering containing crossing-the chasing following leading-the pitching "
    "batting "
    "dribbling hodling holdign weraing waering wering hoding flipping spraying selling buying drawing "
    "painting-a "
    "tying typing texting checking displaying featuring including surrounding supporting wielding "
    "gripping clutching cradling doing having trying attempting adjusting wiping paddling steering",
}

# Words that end like a verb form or a comparison and are nouns.
NOUNS = """building ceiling railing clothing painting string thing swing icing frosting topping toppings
awning wedding spring pudding dressing parking evening morning lighting stuffing duckling sibling opening
drawing crossing carving landing writing reading covering molding moulding siding flooring ring king wing
paving piping fencing filling awnings buildings railings paintings bed beds shed sled sleds weed weeds seed
seeds bread breed reed feed forest chest guest nest west rest test harvest contest request quest crest
boxing bowling fishing camping sting earring sing herring darling lightning plumbing bedding carpeting
signing wiring housing bedspread head gas bus glass grass class dress cross boss moss bass tennis canvas
iris lens octopus cactus asparagus hummus christmas series species atlas texas usa police dishes""".split()

# Words of several parts that are one word to the grammar; the value is the class.
COMPOUNDS: dict[str, str] = {
    **dict.fromkeys(
        [
            "next to", "close to", "nearest to", "closest to", "adjacent to", "beside to", "next too", "
            ""net to",
            "in front of", "infront of", "in fron of", "on top of", "in back of", "in between", "in the "
            "front of",
            "in the back of", "on the back of", "at the back of", "at the front of", "to the left of",
            "to the right of", "to left of", "to right of", "on the left of", "on the right of", "on the "
            "side of",
            "left of", "right of", "on the left side of", "on the right side of", "on the other side of",
            "to the side of", "in the middle of", "in the center of", "in middle of", "in center of",
            "at the end of", "on the edge of", "at the edge of", "on the end of", "ahead of", "away from",
            "across from", "far from", "on the far side of", "on the top of", "at the top of", "at the "
            "bottom of",
            "on the bottom of", "on left of", "on right of", "on left side of", "on right side of", "
            ""furthest from",
            "farthest from", "outside of", "inside of", "out of", "off of",
            "surrounded by", "followed by", "furthest away from", "farthest away from", "closer to", "
            ""nearer to",
            "to the immediate left of", "to the immediate right of", "at left of", "at right of",
            "at the left of", "at the right of", "in the midst of", "in the back on",
        ],
        "l",
    ),
    **dict.fromkeys(["because of", "instead of", "as well as", "along with", "together with"], "w"),
    **dict.fromkeys(["rather than", "other than", "not including", "but not", "and not"], "x"),
    **dict.fromkeys(["each other", "one another"], "u"),
    **dict.fromkeys(["right hand", "left hand"], "s"),
    **dict.fromkeys(["left most", "right most", "most left", "most right", "far most", "top most", "front
    most"], "s"), **dict.fromkeys(["hot dog", "hot dogs", "ice cream", "double decker", "stop sign", "cell
    phone"], "n"), **dict.fromkeys(["teddy bear", "polar bear", "teddy bears", "polar bears", "stuffed
    animal"], "p"), **dict.fromkeys(["t shirt", "t shirts", "tank top", "tank tops", "tee shirt", "bow tie",
    "back pack"], "k"), **dict.fromkeys(["kind of", "sort of", "a little", "a bit", "a little bit", "about
    to", "at least"], "a"), **dict.fromkeys(["cut off", "half eaten", "lit up", "dressed up", "cutt off"],
    "e"), **dict.fromkeys(["brand new", "see through", "tie dye", "polka dot", "polka dotted", "long
    haired"], "j"), **dict.fromkeys(["that is", "that are", "which is", "which are", "that was", "that has
    been"], "r"), **dict.fromkeys(["who is", "who are", "who was", "who has been", "who's"], "R"),
    **dict.fromkeys(["can see", "cant see", "can only see", "you can see", "i can see", "you can"], "y"),
}  # fmt: skip

# Shades: an adverb before a colour ("dark blue"), otherwise the class given here.
SHADES = {
    "light": "n",
    "dark": "j",
    "bright": "j",
    "pale": "j",
    "deep": "j",
    "lt": "j",
    "medium": "j",
    "drk": "j",
}

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "ppl": "person", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "mice": "mouse", "knives": "knife", "leaves": "leaf", "shelves": "
    ""shelf",
    "loaves": "loaf", "wolves": "wolf", "calves": "calf", "halves": "half", "wore": "wear", "worn": "wear",
    "held": "hold", "sat": "sit", "stood": "stand", "rode": "ride", "ridden": "ride", "ate": "eat", "
    ""eaten": "eat",
    "ran": "run", "lay": "lie", "laid": "lie", "lying": "lie", "laying": "lie", "lies": "lie", "lays": "lie",
    "threw": "throw", "thrown": "throw", "caught": "catch", "took": "take", "taken": "take", "made": "make",
    "seen": "see", "saw": "see", "shown": "show", "drew": "draw", "drawn": "draw", "has": "have", "had": "
    ""have",
    "having": "have", "tied": "tie", "tying": "tie", "ties": "tie", "lit": "light", "broken": "break",
    "gray": "grey", "centre": "center", "colour": "color", "coloured": "color", "colored": "color",
}  # fmt: skip
