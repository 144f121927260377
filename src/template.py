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
    # Wu et al., TNNLS 2023, section IV: dual contrastive patch discriminator on Haar bands, layer 4 before the activation.
    # The weight is this repository's (see README.md): in the published release it had no effect.
    "PCL": {
        "loss": "1*L1+0.1*CL-patchD",
        "no_ad_loss": True,
        "cl_layer": "4",
        "use_wavelet": True,
        "before_relu": True,
        "use_aug": True,
        "random_neg": True,
        "only_blur": True,
        "sharp_hr": True,
        "sharp_value": 0.5,
        "sharp_range": 2.5,
    },
    # EDSR-PyTorch's preset for adversarial training
    "GAN": {"epochs": 200, "lr": 5e-5, "decay": "150"},
}
