#!/bin/bash
# bash FILE: asks for 1 x v5litepod-256 (16x16, 64 hosts of 4 chips) and returns; the
# hosts start the run themselves, and again after every reboot. Watch it and end it:
#   gcloud compute tpus queued-resources describe ef-vla-oxe --zone=us-east5-b
#   gcloud compute tpus queued-resources delete ef-vla-oxe --zone=us-east5-b --force
set -euo pipefail
startup=$(mktemp)
trap 'rm -f "$startup"' EXIT
cat >"$startup" <<'END_OF_STARTUP_SCRIPT'
#!/bin/bash
set -euxo pipefail
mkdir -p /mnt/runs
command -v mount.nfs >/dev/null || { apt-get update -q && apt-get install -qy nfs-common; }
mountpoint -q /mnt/runs || mount -t nfs 10.0.0.2:/runs /mnt/runs
[ -d /opt/ef-vla-oxe/.git ] || git clone --quiet https://github.com/lab/vla_jax.git /opt/ef-vla-oxe
cd /opt/ef-vla-oxe
git fetch --quiet origin && git checkout --quiet v1.0
if [ ! -x .venv/bin/python ]; then
    if python=$(command -v python3.12 || command -v python3.11); then
        "$python" -m venv .venv
    else
        python3 -m pip install --quiet uv && python3 -m uv venv --quiet --seed --python 3.12 .venv
    fi
fi
.venv/bin/python -m pip install --quiet -r requirements-tpu.txt
cat >/opt/ef-vla-oxe.sh <<'END_OF_RUN'
failures=0 stopping= child=
trap 'stopping=yes; kill -TERM $child 2>/dev/null' TERM
while :; do
    .venv/bin/python train.py --config configs/ef_vla_oxe.py --run-dir /mnt/runs/ef_vla_oxe --data.root gs://oxe --data.cache /mnt/runs/cache --policy.clip-weights /mnt/runs/clip --tokenizer.path /mnt/runs/clip --batch-size 1024 &
    child=$!
    while :; do
        wait "$child" && code=0 || code=$?
        kill -0 "$child" 2>/dev/null || break  # a signal ends `wait`, not the process
    done
    case $code in
        0 | 2) exit "$code" ;;
        75) ;;
        *) failures=$((failures + 1)) ;;
    esac
    echo "train.py ended with $code; failures: $failures" >&2
    if [ -n "$stopping" ] || [ "$failures" -gt 10 ]; then exit "$code"; fi
    sleep 10
    if [ -n "$stopping" ]; then exit 75; fi
done
END_OF_RUN
systemd-run --unit=ef-vla-oxe --working-directory="$PWD" --property=KillMode=mixed \
    --property=TimeoutStopSec=120 bash /opt/ef-vla-oxe.sh
END_OF_STARTUP_SCRIPT
gcloud compute tpus queued-resources create ef-vla-oxe \
    --zone=us-east5-b \
    --accelerator-type=v5litepod-256 \
    --runtime-version=v2-alpha-tpuv5-lite \
    --node-id=ef-vla-oxe \
    --spot \
    --metadata-from-file=startup-script="$startup"
