"""Datasets of Open X-Embodiment that have no file in `datasets/`, each with the reason."""

UNSUPPORTED = {
    "eth_agent_affordances": "its pictures are all zero; it holds point clouds",
    "io_ai_tech": "a human hand, no robot; what its 7 action and 8 state numbers are is not published",
    "qut_dexterous_manpulation": "lies in the bucket, but not in TFDS; the shape of its state is not known",
    "robo_ai_u_r5e": "what its 7 action and 15 state numbers are is not published",
    "robot_vqa": "questions and answers about videos; its action is one number",
    "spoc_robot": "what its 9 action numbers are (a simulated Stretch: base, lift, arm, wrist) is not published",
    "tidybot": "its action is a text, the receptacle of an object",
    "usc_cloth_sim_converted_externally_to_rlds": "a simulated picker that has a position but no rotation, and no "
    "measured state",
    "utokyo_saytap_converted_externally_to_rlds": "a walking robot's twelve leg joints; its pictures are dummies",
    "vima_converted_externally_to_rlds": "one action a picture: where to pick and where to place; pictures and "
    "prompts are ragged raw tensors, not encoded images",
}
"""Dataset name -> why a policy cannot be trained on it here."""
