"""Presets for --template: named flags. A flag on the command line wins."""

_RCAN_SIZE = "--n_resgroups 10 --n_resblocks 20 --n_feats 64"

# Wu et al., TNNLS 2023, as in the release: dual contrastive patch discriminator on Haar bands
_PCL = "--no_ad_loss --use_wavelet --before_relu"
_PCL_INFO_NCE = f"{_PCL} --cl_loss_type InfoNCE --cl_layer 4 --use_aug --random_neg --only_blur "
_PCL_INFO_NCE += "--sharp_hr --sharp_value 0.5 --sharp_range 2.5"
_MEASURED = f"{_PCL_INFO_NCE} --loss 1*L1+0.1*CL-patchD --embed_scheduler same"  # docs/pcl.md

TEMPLATES = {
    # Lim et al., CVPRW 2017, section 4: the large EDSR
    "EDSR_paper": "--model EDSR --n_resblocks 32 --n_feats 256 --res_scale 0.1",
    # Zhang et al., ECCV 2018, section 4.1; epochs and rates of its repository
    "RCAN": f"--model RCAN {_RCAN_SIZE} --epochs 1000 --decay 200-400-600-800",
    # Niu et al., ECCV 2020, section 4.1; epochs of its repository, which has MSE for the paper's L1
    "HAN": f"--model HAN {_RCAN_SIZE} --epochs 400",
    # Mei et al., CVPR 2021, section 4.1
    "NLSN": "--model NLSN --n_resblocks 32 --n_feats 256 --res_scale 0.1",
    # the paper's method, to fine-tune a trained network at rgb_range 255
    "PCL": f"{_MEASURED} --lr 5e-5 --scheduler Cosine --epochs 100",
    # the same samples and loss, with the schedule of the other flags
    "PCL_InfoNCE": _MEASURED,
    # a ratio of L1 distances to HR and upsampled LR alone: NIQE 0.5 lower for 0.05 dB, B100 x4
    "PCL_ratio": f"{_PCL} --loss 1*L1+1*CL-patchD --cl_loss_type l1 --cl_layer 2",
    # the release's command for EDSR, RCAN and HAN (rgb_range 255)
    "PCL_paper": f"{_PCL_INFO_NCE} --loss 1*L1+5*CL-patchD --contras_D_train --gclip 1 --lr 5e-5 "
    "--epochs 600 --scheduler CosineRestart --cosine_tmax 200 --cosine_etamin 1e-8 "
    "--cosine_restart_weight 1",
    # a small network (196,000 parameters at x2) that trains in 10 minutes on 2 CPU cores
    "tiny": "--n_resblocks 8 --n_feats 32 --scale 2 --patch_size 64 --test_every 250 --epochs 30 "
    "--lr 1e-3 --scheduler Cosine --cosine_etamin 1e-6",
    # EDSR-PyTorch's presets for all scales at once, and for adversarial training
    "MDSR": "--model MDSR --epochs 650",
    "GAN": "--epochs 200 --lr 5e-5 --decay 150",
}
