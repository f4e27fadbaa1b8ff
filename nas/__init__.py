"""Architecture search: NetAdapt narrows a trained network, platform-aware NAS finds one from scratch."""
