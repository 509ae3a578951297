"""What each system is: for whom, in five sentences, and its formula."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Method:
    """A system in the words of its page."""

    whom: str
    formula: str
    sentences: tuple[str, ...]

    @property
    def written(self) -> str:
        """The formula as HTML: what stands behind an underscore is below the line."""
        return re.sub("_([a-z]+[₀-₉]*)", r"<sub>\1</sub>", escape(self.formula))


METHODS = {
    "bone": Method(
        "People who fine-tune a model with linear layers and want few knobs.",
        "W′ = W + (W_block D + D) for every block of r × r",
        (
            "A frozen weight is cut into square blocks of r rows and r columns.",
            "One small trainable matrix D is shared along the blocks of a row, and starts at zero, so that training "
            "begins at the model as it is.",
            "In the variant “bat” the update of a block is D passed through the block itself, plus D.",
            "There is no scale and no second factor to choose; the cost is that of LoRA of about half the rank.",
            "After training the update is added to the weight, and the model runs as fast as before.",
        ),
    ),
    "triadaptlora": Method(
        "People who fine-tune under a budget of parameters and do not know which layers need rank.",
        "W′ = W + B (L + U) A",
        (
            "Between the two factors of LoRA stands a square matrix, split into a lower and an upper triangle.",
            "Every layer starts with rank one.",
            "While it trains, the layers whose triangles grow fastest, measured by a normalised Frobenius norm, get "
            "more rank.",
            "A new rank appends one row and one column, which couple the new direction with all old ones and touch no "
            "old number.",
            "When the budget is spent, ranks stay, and the history of ranks is part of the result.",
        ),
    ),
    "salt": Method(
        "Groups who adapt a pretrained segmenter to a few dozen images of their own.",
        "W′ = U · relu(blockdiag(α S₁ + β, S₂ + X Y)) · Vᵀ",
        (
            "The weight is split by its singular values.",
            "The largest ones are scaled and shifted by trainable numbers.",
            "The rest of the core gets a low-rank update.",
            "Singular vectors stay frozen, so that little is trained.",
            "Afterwards all is one weight again, at the cost of before.",
        ),
    ),
    "flatquant": Method(
        "Engineers who want weights, activations and cache of a language model in four bits, without training it anew.",
        "x Wᵀ = (x P) (W P⁻ᵀ)ᵀ with P = L ⊗ R, then both sides rounded",
        (
            "Before a linear layer, activations pass a small invertible matrix, and the weight its inverse, so that "
            "nothing changes before rounding.",
            "The matrix is a Kronecker product of two, which costs about a hundredth of the layer.",
            "It is learnt block by block so that both sides become flat: no channel is much larger than others.",
            "Learnt shares of the range are clipped as well.",
            "Then weights, activations, keys and values are rounded to four bits.",
        ),
    ),
    "token_transforming": Method(
        "Owners of a trained transformer who want it faster today, without training.",
        "X′ = W X with W = diag(1/s′) P diag(s)",
        (
            "At some blocks the N tokens are turned into fewer by one matrix W.",
            "P says which share of each token goes into which new one; masses s keep count of how many tokens a token "
            "stands for.",
            "Pruning, merging of pairs and pooling are special matrices of the same kind; here many tokens flow into "
            "many.",
            "Attention counts masses, so that a merged token weighs what its parts weighed.",
            "For dense outputs the tokens are restored to their places at the end.",
        ),
    ),
    "learngene_pool": Method(
        "Teams with one trained transformer who ship models for many budgets.",
        "descendant = last blocks(wide) ∘ S ∘ first blocks(narrow)",
        (
            "One large model teaches a few small ones of different widths.",
            "Their blocks are kept in a pool.",
            "A matrix S, the stitch, leads from the features of a narrow one to those of a wide one; it starts at the "
            "least-squares fit between both.",
            "Every pair of places gives a descendant, dozens in all, from one stored pool.",
            "You ask for parameters, multiply-adds or milliseconds, and get a plain model.",
        ),
    ),
    "bt2": Method(
        "Teams with a vector database who change the embedding model.",
        "z = Q [f, φ_old, …] with Q orthogonal; z[:d_old] compares with stored vectors",
        (
            "Old vectors stay in the gallery; queries come from the new model.",
            "A learnt orthogonal change of basis makes the first numbers of a new vector comparable with the stored "
            "ones.",
            "A few further numbers keep what the old model never saw.",
            "Orthogonal maps lose nothing, so that new against new is as good as the new model.",
            "The gallery is embedded anew when there is time, a part at a time, and mixed galleries work.",
        ),
    ),
    "mbat": Method(
        "People with nested records and no schema, who want one vector a record.",
        "v = Σ M_key₁ M_key₂ … x_value",
        (
            "Every key is an orthogonal matrix, made from its name and never stored.",
            "A value is a vector; along its path the matrices of the keys act on it, in order.",
            "The vector of a record is the sum over its leaves.",
            "Orthogonal matrices keep lengths and angles, and their inverse is the transpose, so that a value can be "
            "asked for again.",
            "Similar records have similar vectors: search, clusters and linear models work without training.",
        ),
    ),
    "hippo": Method(
        "People who classify or follow long series, also as a stream.",
        "x′ = A x + B u,  y = C x",
        (
            "The past of a signal is kept as the coefficients of orthogonal polynomials.",
            "How they change in time is a linear system whose matrix A is known in closed form.",
            "S4 puts such systems into a network and learns them from that start.",
            "In training the system is one long convolution.",
            "In use it is a recurrence with a small state, a sample at a time, with the same answers.",
        ),
    ),
    "olinear": Method(
        "Forecasters of several series at once.",
        "ŷ = Q_oᵀ g(Q_i x),  R = Qᵀ Λ Q",
        (
            "Steps of a series are correlated; the eigenvectors of their correlation matrix are an orthogonal basis "
            "in which they are not.",
            "Input and output windows are turned into these bases, which are computed once from the training rows.",
            "Between series, a row-stochastic matrix that does not depend on the data takes the place of attention.",
            "The rest is linear layers.",
            "Intervals come from rows that were held back.",
        ),
    ),
    "acm": Method(
        "People who classify epochs of EEG.",
        "Γ = cov[x(t), x(t − l), …, x(t − (o−1) l)]",
        (
            "A covariance of channels forgets time.",
            "Here delayed copies of the signal are stacked first, o of them, l samples apart.",
            "The covariance of the stack holds the lagged covariances too, those of an autoregressive model.",
            "Such matrices are classified by Riemannian means or in the tangent space.",
            "Order and lag are chosen by cross-validation in the training epochs.",
        ),
    ),
    "gbwbn": Method(
        "People who train networks on covariance matrices that are nearly singular.",
        "X ↦ batch mean to B, spread to s, in the Bures-Wasserstein geometry of M",
        (
            "A batch of positive definite matrices has a mean and a spread, in a geometry.",
            "The layer moves the mean to a learnt matrix and the spread to a learnt number.",
            "In this geometry distances depend on the square roots of the matrices, so that directions near zero do "
            "not blow up.",
            "The metric itself is a learnt matrix M, and a power θ bends it.",
            "It stands where batch normalisation stands in other networks.",
        ),
    ),
    "lie_decomposition": Method(
        "People whose test images are warped, and whose training images are few and clean.",
        "h = R · exp(S), R a rotation, S symmetric",
        (
            "Affine warps are a group of matrices; each splits into a rotation and a symmetric part.",
            "Both parts have coordinates that cover the whole group, which the exponential alone does not.",
            "Samples of the group are drawn, and a convolution sums over places and samples.",
            "Its kernel is a small network of the coordinates.",
            "The network's answers then depend little on the warp.",
        ),
    ),
    "tinvnn": Method(
        "People who feed points to a network and want the same answer in any pose.",
        "H = X_c V Σ⁻ … from X_c X_cᵀ = −½ J D² J",
        (
            "Distances between points do not depend on the pose.",
            "Classical scaling turns their matrix back into points, in a frame of their own.",
            "Signs and ties of that frame are settled by fixed rules.",
            "Any network behind it is then invariant to rotation, reflection, shift and scale, exactly.",
            "It is one line before the network, and nothing of the network changes.",
        ),
    ),
    "tooth_arrangement": Method(
        "Research on planning; not a medical device.",
        "p′ = R (p − c) + c′ for each tooth",
        (
            "Every tooth gets one rigid motion, a rotation matrix and a place.",
            "A diffusion model draws all motions together, given the shapes and places before.",
            "Several proposals are ranked by contacts and by how smooth the arch is.",
            "Teeth that must not move stay exactly where they are.",
            "A plan is split into stages of at most a quarter of a millimetre and two degrees.",
        ),
    ),
    "linearscope": Method(
        "People who ask why a network answers as it does.",
        "f(x) = F x + r, exact at this x",
        (
            "At one input, a network with its gates, norms and attention held fixed is an affine map.",
            "The row of F for a logit says what each pixel or token adds to it, and these add up exactly, with r for "
            "the biases.",
            "Columns say what one input writes into the output.",
            "Singular vectors are the patterns in which the network reads and writes.",
            "The map belongs to this input and says nothing of others.",
        ),
    ),
    "householder_projector": Method(
        "Owners of a generator who look for directions without labels.",
        "A ↦ U S Vᵀ, U and V products of reflections I − 2 v vᵀ",
        (
            "The layer that reads the latent code is replaced by an orthogonal projection of low rank.",
            "Both orthogonal matrices are products of Householder reflections, so that they stay orthogonal while they "
            "train.",
            "The start is the nearest such projection to the old weight.",
            "After a little fine-tuning each of the few directions changes one thing, more or less.",
            "Sheets show each direction, labelled by what changes most.",
        ),
    ),
}
