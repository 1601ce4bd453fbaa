#!/bin/bash
# Makes a fresh Debian 12 machine a node. Terraform puts in where the program lies; the unit comes as metadata.
set -euo pipefail

meta() { curl -sSf -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/$1"; }

# shellcheck disable=SC2154  # Terraform puts it in.
gcloud storage cp "${program}" /usr/local/bin/roomcast
chmod 755 /usr/local/bin/roomcast
install -d -m 755 /etc/roomcast
(umask 077; gcloud secrets versions access latest --secret=roomcast-environment > /etc/roomcast/environment)
cat > /etc/roomcast/config.toml <<'SETTINGS'
[server]
listen = "0.0.0.0:8080"
# The load balancer's own addresses; add the forwarding rule's.
trusted_proxies = ["130.211.0.0/22", "35.191.0.0/16"]
# A machine that is deleted has 90 s.
drain = "30s"

[queue.door]
listen = ""

# Takes from Pub/Sub, where the program was built with `cargo build --release --features pubsub`:
# [[queue.sources]]
# name = "pushes"
# kind = "pubsub"
# subscription = "${subscription}"

[log]
format = "json"
SETTINGS
meta instance/attributes/unit > /etc/systemd/system/roomcast.service
systemctl daemon-reload
systemctl enable --now roomcast

# Logs and figures, by the Ops Agent, which an agent policy of the project installs:
#     gcloud compute instances ops-agents policies create roomcast --zone=… --file=…
# It reads the journal, where each line is one JSON object, and scrapes /metrics.
install -d /etc/google-cloud-ops-agent
cat > /etc/google-cloud-ops-agent/config.yaml <<'AGENT'
logging:
  receivers:
    journal:
      type: systemd_journald
  processors:
    message:
      type: parse_json
      field: MESSAGE
      time_key: time
      time_format: "%Y-%m-%dT%H:%M:%S.%L%z"
  service:
    pipelines:
      roomcast:
        receivers: [journal]
        processors: [message]
metrics:
  receivers:
    roomcast:
      type: prometheus
      config:
        scrape_configs:
          - job_name: roomcast
            scrape_interval: 30s
            static_configs:
              - targets: ["127.0.0.1:8080"]
  service:
    pipelines:
      roomcast:
        receivers: [roomcast]
AGENT
systemctl try-restart google-cloud-ops-agent || echo "the Ops Agent comes later"
