"""Claims K4 and K5: 2-Adam compared with tuned baselines on images and on text (reviewers' questions)."""
