"""LinearScope (Navarrete Michelini et al., ICCV 2019): the paper's findings on small networks."""

from studies.linearscope import cost, deletion, edges, enlargement, language
from studies.study import Protocol

PROTOCOLS = [
    Protocol("deletion", "Do the votes name the pixels that decide the class, on four photographs?", deletion.run),
    Protocol("enlargement", "What do super-resolution networks do beside bicubic interpolation?", enlargement.run),
    Protocol("edges", "Where does an image-to-image network copy, and where does it paint from memory?", edges.run),
    Protocol("language-deletion", "Do the contributions name the tokens that decide what is said next?", language.run),
    Protocol("cost", "What do a row and a column cost beside a forward pass?", cost.run),
]
