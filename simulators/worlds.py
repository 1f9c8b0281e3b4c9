"""The table of known worlds: where each is, how it is published, and the figures to compare its band with."""

from __future__ import annotations

from dataclasses import dataclass

from recgym.env.session import SessionConfig


@dataclass(frozen=True, kw_only=True)
class World:
    """One setting of one world."""

    entry_point: str
    """"module:Class" of the user model."""
    gym_id: str
    """Gymnasium id."""
    reward: str
    """Kind of feedback that is the published reward."""
    slate_size: int = 1
    """Published slate, K."""
    max_steps: int = 100
    """Published horizon in slates; where users leave by themselves, a bound that they hardly reach."""
    files: bool = False
    """Needs `path`, a file or folder of the user's."""
    source: str = ""
    """Published figures to compare a band with, and where they are from."""

    def session_config(self) -> SessionConfig:
        """How a platform meets it."""
        return SessionConfig(slate_size=self.slate_size, max_steps=self.max_steps, reward={self.reward: 1.0})


WORLDS: dict[str, World] = {
    "storefront": World(
        entry_point="simulators.storefront:Storefront", gym_id="Storefront-v0", reward="click", max_steps=50
    ),
    "interest-evolution": World(
        entry_point="simulators.interest_evolution:InterestEvolution",
        gym_id="InterestEvolution-v0",
        reward="watch",
        slate_size=3,
        max_steps=500,
        source="RecSim: random 159.8, myopic 166.8, topic mean quality 264.7, SlateQ 174.6",
    ),
    "interest-evolution-fixed": World(
        entry_point="simulators.interest_evolution:InterestEvolution",
        gym_id="InterestEvolutionFixed-v0",
        reward="watch",
        slate_size=3,
        max_steps=500,
    ),
    "interest-exploration": World(
        entry_point="simulators.interest_exploration:InterestExploration",
        gym_id="InterestExploration-v0",
        reward="click",
        slate_size=2,
    ),
    "interest-exploration-repaired": World(
        entry_point="simulators.interest_exploration:InterestExploration",
        gym_id="InterestExplorationRepaired-v0",
        reward="click",
        slate_size=2,
    ),
    "long-term-satisfaction": World(
        entry_point="simulators.long_term_satisfaction:LongTermSatisfaction",
        gym_id="LongTermSatisfaction-v0",
        reward="engagement",
        max_steps=60,
        source="RecSim at s = .01: random 942, most clickbait 1111, least 781",
    ),
    "long-term-satisfaction-repaired": World(
        entry_point="simulators.long_term_satisfaction:LongTermSatisfaction",
        gym_id="LongTermSatisfactionRepaired-v0",
        reward="engagement",
        max_steps=60,
        source="RecSim at s = .2: random 957, most clickbait 625, least 1280",
    ),
    "sardine-single-item-static": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSingleItemStatic-v0",
        reward="click",
        source="SARDINE: random 8.6, greedy oracle 100.0 (published code, 150 sessions)",
    ),
    "sardine-single-item-bored-inf": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSingleItemBoredInf-v0",
        reward="click",
        source="SARDINE: random 8.8, greedy oracle 51.0, best known 76.3",
    ),
    "sardine-single-item-uncertain": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSingleItemUncertain-v0",
        reward="click",
        source="SARDINE: random 11.5, greedy oracle 94.9 (published code, 150 sessions)",
    ),
    "sardine-slate-topk-bored": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateTopKBored-v0",
        reward="click",
        slate_size=10,
        source="SARDINE: random 44, greedy oracle 150, best known 413",
    ),
    "sardine-slate-topk-bored-inf": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateTopKBoredInf-v0",
        reward="click",
        slate_size=10,
        source="SARDINE: random 41, greedy oracle 153, best known 290",
    ),
    "sardine-slate-topk-uncertain": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateTopKUncertain-v0",
        reward="click",
        slate_size=10,
        source="SARDINE: random 71, greedy oracle 140, best known 301",
    ),
    "sardine-slate-rerank-static": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateRerankStatic-v0",
        reward="click",
        slate_size=10,
        max_steps=10,
        source="SARDINE: random 14.7, greedy oracle 21.3 (published code, 3,000 sessions)",
    ),
    "sardine-slate-rerank-bored": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateRerankBored-v0",
        reward="click",
        slate_size=10,
        max_steps=10,
        source="SARDINE: random 13.2, greedy oracle 13.9 (published code, 3,000 sessions)",
    ),
    "sardine-single-item-bored-inf-repaired": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSingleItemBoredInfRepaired-v0",
        reward="click",
    ),
    "sardine-slate-topk-bored-inf-repaired": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateTopKBoredInfRepaired-v0",
        reward="click",
        slate_size=10,
    ),
    "sardine-slate-topk-uncertain-repaired": World(
        entry_point="simulators.boredom:Boredom",
        gym_id="SardineSlateTopKUncertainRepaired-v0",
        reward="click",
        slate_size=10,
    ),
    "organic-bandit": World(
        entry_point="simulators.organic_bandit:OrganicBandit",
        gym_id="OrganicBandit-v0",
        reward="click",
        max_steps=500,
        source="RecoGym: random click rate .0108 [.0101, .0115] per product shown, of 100",
    ),
    "organic-bandit-repaired": World(
        entry_point="simulators.organic_bandit:OrganicBandit",
        gym_id="OrganicBanditRepaired-v0",
        reward="click",
        max_steps=500,
    ),
    "satiation": World(
        entry_point="simulators.satiation:Satiation",
        gym_id="Satiation-v0",
        reward="rating",
    ),
    "satiation-switching": World(
        entry_point="simulators.satiation:Satiation",
        gym_id="SatiationSwitching-v0",
        reward="rating",
    ),
    "satiation-repaired": World(
        entry_point="simulators.satiation:Satiation",
        gym_id="SatiationRepaired-v0",
        reward="rating",
    ),
    "satiation-repaired-clicks": World(
        entry_point="simulators.satiation:Satiation",
        gym_id="SatiationRepairedClicks-v0",
        reward="click",
    ),
    "quality-drift": World(
        entry_point="simulators.quality_drift:QualityDrift",
        gym_id="QualityDrift-v0",
        reward="watch",
        slate_size=2,
    ),
    "quality-drift-repaired": World(
        entry_point="simulators.quality_drift:QualityDrift",
        gym_id="QualityDriftRepaired-v0",
        reward="watch",
        slate_size=2,
    ),
    "investor": World(
        entry_point="simulators.investor:Investor",
        gym_id="Investor-v0",
        reward="amount",
        slate_size=3,
        max_steps=200,
    ),
    "investor-indifferent": World(
        entry_point="simulators.investor:Investor",
        gym_id="InvestorIndifferent-v0",
        reward="amount",
        slate_size=3,
        max_steps=200,
    ),
    "kuaisim-request": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimRequest-v0",
        reward="is_click",
        slate_size=6,
        max_steps=20,
    ),
    "kuaisim-request-calibrated": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimRequestCalibrated-v0",
        reward="is_click",
        slate_size=6,
        max_steps=20,
    ),
    "kuaisim-session": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimSession-v0",
        reward="is_click",
        slate_size=6,
        max_steps=25,
        source="KuaiSim, depth: random 14.4-14.5, A2C 14.02, HAC 14.98, floor 13.17, ceiling 15.49",
    ),
    "kuaisim-session-repaired": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimSessionRepaired-v0",
        reward="is_click",
        slate_size=6,
    ),
    "kuaisim-return": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimReturn-v0",
        reward="promptness",
        slate_size=6,
        max_steps=30,
        source="KuaiSim, return day: CEM 3.573, TD3 3.556, RLUR 3.481",
    ),
    "kuaisim-return-repaired": World(
        entry_point="simulators.patience:KuaiSim",
        gym_id="KuaiSimReturnRepaired-v0",
        reward="promptness",
        slate_size=6,
        max_steps=30,
    ),
    "coat": World(
        entry_point="simulators.coat:Coat",
        gym_id="Coat-v0",
        reward="rating",
        max_steps=30,
        files=True,
        source="CoatEnv: random 28.2, rule 82.1, greedy on the truth 93.2; A2C 81.80, PPO 73.0, DQN 54.4",
    ),
    "coat-repaired": World(
        entry_point="simulators.coat:Coat",
        gym_id="CoatRepaired-v0",
        reward="rating",
        max_steps=30,
        files=True,
    ),
    "coat-no-quit": World(
        entry_point="simulators.coat:Coat",
        gym_id="CoatNoQuit-v0",
        reward="rating",
        max_steps=30,
        files=True,
        source="CoatEnv: random 67.6, one item for all 83.98, explore 8 then commit 92.56, truth 100.4; ROLeR 83.96",
    ),
    "virtual-taobao": World(
        entry_point="simulators.virtual_taobao:VirtualTaobao",
        gym_id="VirtualTaobao-v0",
        reward="click",
        files=True,
    ),
    "virtual-taobao-repaired": World(
        entry_point="simulators.virtual_taobao:VirtualTaobao",
        gym_id="VirtualTaobaoRepaired-v0",
        reward="click",
        files=True,
    ),
}
"""Every setting of every world, by name."""
