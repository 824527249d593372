"""PPO-ptx: PPO that goes on learning its pre-training text, so that it does not forget it.

    L = L_ppo + w * L_text,     L_text = - sum over its tokens of log pi(z_t | z_<t)  /  their number

Every update also takes some texts from a file (--pretrain), whose loss is divided by its own tokens. The
policy thus maximises E[r - kl log(pi/pi_ref)] + w E_text[log pi]. At w = 0 it is ppo and needs no file. Any other
method that learns from its own samples takes the same two settings, rlgaf among them: its equation 3
has the same term.

The unit of w: with advantages in units of the reward (whiten none, or reinforce and rloo) a one-token policy
ends where, for every y,

    pi(y) (u(y) - mean u) + w (p_text(y) - pi(y)) = 0,     u = r - kl log(pi/pi_ref)

Whitened advantages, ppo's default, divide u by its standard deviation under pi, so that w counts in those.
The paper's weight, 27.8, belongs to GPT-3's text and its sizes of batches and is not worth porting; the
default of 1 is ours. The paper takes 8 texts for each sampled response; here it is a number for each update.
A text that is longer than --max-response is cut to it, and that is counted.

What the paper calls PPO is w = 0; its InstructGPT models are PPO-ptx.

Source: Ouyang et al. 2022, arXiv:2203.02155, equation 2.
"""

from sparring.core.registry import recipe

PPO_PTX = recipe("ppo_ptx", data="prompt", policies=("ppo",), defaults={"ppo": {"pretrain_weight": 1.0}})
