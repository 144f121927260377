"""Presets for --template: default values of flags under one name. A flag given on the command line wins over its preset."""

TEMPLATES = {
    # Lim et al., CVPRW 2017, section 4: the large EDSR
    "EDSR_paper": {"model": "EDSR", "n_resblocks": 32, "n_feats": 256, "res_scale": 0.1},
    # Zhang et al., ECCV 2018, section 4.1
    "RCAN": {"model": "RCAN", "n_resgroups": 10, "n_resblocks": 20, "n_feats": 64, "chop": True},
    # Niu et al., ECCV 2020, section 4.1
    "HAN": {"model": "HAN", "n_resgroups": 10, "n_resblocks": 20, "n_feats": 64, "chop": True},
    # Mei et al., CVPR 2021, section 4.1
    "NLSN": {"model": "NLSN", "n_resblocks": 32, "n_feats": 256, "res_scale": 0.1, "chop": True},
    # EDSR-PyTorch's preset for adversarial training
    "GAN": {"epochs": 200, "lr": 5e-5, "decay": "150"},
}
