# %% [markdown]
# # Forecast many series at once
#
# An electricity transformer reports seven numbers every hour. What will they be over the next two days? **OLinear**
# answers with linear layers alone. Its core is one orthogonal matrix: in the right basis along time the steps of a
# window are no longer correlated, and a simple model is enough.
#
# We find that basis in real data, train a forecaster in half a minute, look at its intervals, and let it prove itself
# on the past.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from linmap.data import EMBEDDED
from linmap.sequence.hippo import OnlineProjection
from linmap.sequence.olinear import OLinearForecaster, OrthoTrans, backtest

# %% [markdown]
# ## The table
#
# ETTh1, two years of hours. We take the last five months. The oil temperature `OT` is what operators watch.

# %%
table = pd.read_csv(EMBEDDED / "ETTh1.csv").iloc[-3600:]
known, future = table.iloc[:-48], table.iloc[-48:]
print(known.tail(3).round(2).to_string(index=False))

# %% [markdown]
# ## A basis in which steps do not correlate
#
# The steps of a window of 96 hours depend on each other: the left picture is their correlation. Its eigenvectors are
# the new basis. The first ones, on the right, are slow trends and the day's rhythm. The matrix is computed once and
# never trained.

# %%
rows = known.drop(columns="date").to_numpy()
Q = OrthoTrans(96).fit(rows).Q_
windows = np.lib.stride_tricks.sliding_window_view(rows[:, -1], 96)
correlation = np.corrcoef(windows.T)

fig, axes = plt.subplots(1, 2, figsize=(5.2, 2.7))
axes[0].imshow(correlation)
axes[0].set(title="correlation of steps", xlabel="hour", ylabel="hour")
axes[0].grid(False)
for k in range(4):
    axes[1].plot(Q[k] - 0.4 * k)
axes[1].set(title="first four basis vectors", xlabel="hour", yticks=[])
plt.show()

# %% [markdown]
# ## Fit
#
# 48 hours ahead from the last 96. A tenth of the rows decides when training stops, another tenth calibrates intervals.
# The scaler and the bases see the training rows only.

# %%
forecaster = OLinearForecaster(
    h=48, lookback=96, d_model=64, embed=4, epochs=4, lr=1e-3, validation=0.1, calibration=0.1, random_state=0
)
forecaster.fit(known)
print(f"best epoch {forecaster.history_.best_epoch} of {len(forecaster.history_.epochs)}")

# %% [markdown]
# ## Two days that it has not seen

# %%
forecast = forecaster.predict(known, level=[80])
past = known["OT"].to_numpy()[-72:]
ahead = np.arange(48)

fig, ax = plt.subplots()
ax.plot(np.arange(-72, 0), past, color="gray")
ax.plot(ahead, future["OT"], color=plt.rcParams["text.color"], label="what happened")
ax.plot(ahead, forecast["OT"], label="forecast")
ax.fill_between(ahead, forecast["OT-lo-80"], forecast["OT-hi-80"], alpha=0.25, label="80 % interval")
ax.set(xlabel="hours from now", ylabel="oil temperature, °C")
ax.legend(fontsize=8, loc="upper left")
plt.show()

inside = ((future["OT"].to_numpy() >= forecast["OT-lo-80"]) & (future["OT"].to_numpy() <= forecast["OT-hi-80"])).mean()
print(f"{inside:.0%} of these 48 hours lie inside the interval")

# %% [markdown]
# ## Was that luck?
#
# One window proves little. `backtest` makes the forecasts that the model would have made at past origins, and sets
# them beside repeating the last value. Rows of the training are not judged: here the fit ends before the first origin.

# %%
judged = backtest(
    OLinearForecaster(h=48, lookback=96, d_model=64, embed=4, epochs=4, lr=1e-3, calibration=0.1, random_state=0),
    known,
    n_windows=8,
    level=[80],
).errors()
steps = judged[judged["step"].isin([1, 6, 12, 24, 48])]
columns = ["step", "MAE", "naive MAE", "coverage-80"]
print(steps[columns].to_string(index=False, float_format="{:.2f}".format))

# %% [markdown]
# ## The other system of the room: a memory of fixed size
#
# HiPPO keeps the whole past of a signal in a few numbers and updates them with every sample, again by one well-chosen
# matrix. Here 32 numbers hold 1,000 hours of oil temperature: their slow movements, and none of the noise.

# %%
signal = table["OT"].to_numpy()[-1000:]
centre = signal.mean()
memory = OnlineProjection("legs", 32)
memory.extend(signal - centre)
remembered = memory.reconstruct(np.arange(1000) + 0.5).numpy()[::-1] + centre

fig, ax = plt.subplots()
ax.plot(signal, color="gray", linewidth=0.8, label="1,000 hours")
ax.plot(remembered, label="from 32 numbers")
ax.set(xlabel="hour", ylabel="oil temperature, °C")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## On your own data
#
# ```console
# $ linmap compare olinear --data my.csv --horizon 24      # beside linear models and repeating the past: worth it?
# $ linmap fit olinear --data my.csv --horizon 24 --calibration 0.1 --out run
# $ linmap apply run --data my.csv --level 80 95 --out forecast.csv
# ```
#
# Dates are read in any usual form, and the command says how it read them. A short series with a clear season is served
# as well by a linear baseline. [Sequence](../sequence.md) has all options, the parts for your own model, and
# classifiers of long series and streams.
