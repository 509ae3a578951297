"""The published ways to compress tokens as loops over tokens, written from their definitions, in float64 NumPy."""

import math

import numpy as np


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def groups_to_P(groups, N):
    """P of outputs given as sets of tokens."""
    P = np.zeros((len(groups), N))
    for m, group in enumerate(groups):
        P[m, sorted(group)] = 1
    return P


def tome(metric, r, class_token=False, distill_token=False):
    """ToMe's bipartite matching of one sample: groups of tokens by the token that they grew around."""
    f = unit(metric)
    N = len(f)
    r = min(r, (N - class_token - distill_token) // 2)
    edges = []
    for i in range(0, N, 2):
        scores = [-math.inf if distill_token and j == 1 else f[i] @ f[j] for j in range(1, N, 2)]
        best = max(scores)
        edges.append((-math.inf if class_token and i == 0 else best, i, 2 * scores.index(best) + 1))
    edges.sort(key=lambda edge: -edge[0])
    groups = {i: {i} for i in range(N)}
    for _, source, destination in edges[:r]:
        groups[destination].add(source)
        del groups[source]
    return groups


def kth_bipartite(metric, k):
    f = unit(metric)
    N = len(f) // k * k
    destinations = list(range(k - 1, N, k))
    groups = {j: {j} for j in destinations}
    for i in range(N):
        if i not in groups:
            groups[max(destinations, key=lambda j: f[i] @ f[j])].add(i)
    return groups


def pitome(metric, ratio, margin=0.5, class_token=True):
    first = int(class_token)
    f = unit(metric)[first:]
    T = len(f)
    r = min(math.floor(T - T * ratio), T // 2)
    gaps = f @ f.T - margin
    energy = np.where(gaps > 0, gaps, np.exp(gaps) - 1).mean(1)
    order = sorted(range(T), key=lambda i: -energy[i])[: 2 * r]
    groups = {i: {i} for i in range(T + first)}
    for i in order[::2]:
        best = max(order[1::2], key=lambda j: f[i] @ f[j])
        groups[best + first].add(i + first)
        del groups[i + first]
    return groups


def informativeness(f, importance, s, protect):
    f, N = unit(f), len(f)
    c = np.zeros(N)
    for n in range(N):
        if n < protect:
            c[n] = math.inf
        elif s[n] == 0:
            c[n] = -math.inf
        else:
            above = [
                f[n] @ f[j]
                for j in range(protect, N)
                if s[j] > 0 and (importance[j] > importance[n] or (importance[j] == importance[n] and j < n))
            ]
            c[n] = s[n] * (1 - max(above)) if above else math.inf
    return c


def assignment(f, centres, tau, s, protect=1, hard=False, topk=None, keep_self=False, min_sim=None, causal=False):
    f, N, M = unit(f), len(f), len(centres)
    P = np.zeros((M, N))
    for n in range(N):
        if s[n] == 0:
            continue
        if n < protect or (keep_self and n in centres):
            P[list(centres).index(n), n] = 1
            continue
        open_to = [m for m in range(M) if centres[m] >= protect and s[centres[m]] > 0]
        if causal:
            open_to = [m for m in open_to if centres[m] >= n]
        cosines = {m: f[n] @ f[centres[m]] for m in open_to}
        if not cosines or (min_sim is not None and n not in centres and max(cosines.values()) < min_sim):
            continue
        best = sorted(cosines, key=lambda m: (-cosines[m], m))[: 1 if hard else topk]
        weights = {m: math.exp((cosines[m] - cosines[best[0]]) / tau) for m in best}
        for m in best:
            P[m, n] = weights[m] / sum(weights.values())
    return P


def attention(q, k, s, scale):
    """(H, N, N): rows of softmax(scale q k^T + log s)."""
    with np.errstate(divide="ignore"):
        logits = scale * q @ k.transpose(0, 2, 1) + np.log(s)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
