# Roomcast at Google: a load balancer with TLS, nodes in a managed instance group, Memorystore, Cloud SQL and Pub/Sub.
#
#     cd deploy/google && terraform init && terraform apply -var project=… -var region=europe-west1 -var network=… \
#         -var domain=chat.example.com -var program=gs://bucket/roomcast -var auth_secret=…
#
# program is the file that `cargo build --release` leaves in target/release/roomcast, built on Debian 12 or older.
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
    random = {
      source  = "hashicorp/random"
      version = ">= 3.0"
    }
  }
}

variable "project" {
  type = string
}

variable "region" {
  type = string
}

variable "network" {
  type        = string
  description = "Self link of a VPC network with private services access and Cloud NAT"
}

variable "domain" {
  type        = string
  description = "Name of the page; point it at the output address"
}

variable "program" {
  type        = string
  description = "Where the program lies, as gs://bucket/object"
}

variable "auth_secret" {
  type        = string
  sensitive   = true
  description = "Checks HS256 tokens; 32 random bytes"
}

variable "machine_type" {
  type    = string
  default = "c3-standard-4"
}

variable "nodes_min" {
  type    = number
  default = 2
}

variable "nodes_max" {
  type    = number
  default = 20
}

variable "connections_per_node" {
  type        = number
  default     = 20000
  description = "What the group is scaled to hold; see docs/scaling.md"
}

provider "google" {
  project = var.project
  region  = var.region
}

# What the rooms share.
resource "google_redis_instance" "rooms" {
  name                    = "roomcast"
  tier                    = "STANDARD_HA"
  memory_size_gb          = 5
  replica_count           = 2
  read_replicas_mode      = "READ_REPLICAS_ENABLED"
  redis_version           = "REDIS_7_2"
  authorized_network      = var.network
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  transit_encryption_mode = "DISABLED"
  redis_configs = {
    maxmemory-policy = "noeviction"
  }
}

resource "random_password" "database" {
  length  = 32
  special = false
}

resource "google_sql_database_instance" "archive" {
  name             = "roomcast"
  database_version = "POSTGRES_16"
  settings {
    tier              = "db-custom-2-7680"
    availability_type = "REGIONAL"
    disk_autoresize   = true
    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
    }
    ip_configuration {
      ipv4_enabled    = false
      private_network = var.network
      ssl_mode        = "ENCRYPTED_ONLY"
    }
  }
}

resource "google_sql_database" "archive" {
  name     = "roomcast"
  instance = google_sql_database_instance.archive.name
}

resource "google_sql_user" "archive" {
  name     = "roomcast"
  instance = google_sql_database_instance.archive.name
  password = random_password.database.result
}

# For backends that push by Pub/Sub; a node built with the feature `pubsub` takes from it, in the order of the keys.
resource "google_pubsub_topic" "pushes" {
  name = "roomcast-pushes"
}

resource "google_pubsub_topic" "dead_pushes" {
  name = "roomcast-dead-pushes"
}

resource "google_pubsub_subscription" "pushes" {
  name                       = "roomcast"
  topic                      = google_pubsub_topic.pushes.id
  enable_message_ordering    = true
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"
  expiration_policy {
    ttl = ""
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_pushes.id
    max_delivery_attempts = 20
  }
}

# The settings with passwords in them; nodes read them at their start.
resource "google_secret_manager_secret" "environment" {
  secret_id = "roomcast-environment"
  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "environment" {
  secret      = google_secret_manager_secret.environment.id
  secret_data = <<-SETTINGS
    REDIS_URL=redis://${google_redis_instance.rooms.host}:${google_redis_instance.rooms.port}
    DATABASE_URL=postgres://roomcast:${random_password.database.result}@${google_sql_database_instance.archive.private_ip_address}:5432/roomcast?sslmode=require
    ROOMCAST__AUTH__SECRET=${var.auth_secret}
  SETTINGS
}

resource "google_service_account" "node" {
  account_id   = "roomcast-node"
  display_name = "Roomcast nodes"
}

resource "google_project_iam_member" "node" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/storage.objectViewer"])
  project  = var.project
  role     = each.value
  member   = "serviceAccount:${google_service_account.node.email}"
}

resource "google_secret_manager_secret_iam_member" "node" {
  secret_id = google_secret_manager_secret.environment.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.node.email}"
}

resource "google_pubsub_subscription_iam_member" "node" {
  subscription = google_pubsub_subscription.pushes.name
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:${google_service_account.node.email}"
}

resource "google_compute_instance_template" "node" {
  name_prefix  = "roomcast-"
  machine_type = var.machine_type
  tags         = ["roomcast"]
  disk {
    source_image = "debian-cloud/debian-12"
    disk_size_gb = 20
  }
  network_interface {
    network = var.network
  }
  service_account {
    email  = google_service_account.node.email
    scopes = ["cloud-platform"]
  }
  metadata = {
    startup-script = templatefile("${path.module}/node.sh", { program = var.program, subscription = google_pubsub_subscription.pushes.id })
    unit           = file("${path.module}/../systemd/roomcast.service")
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_health_check" "ready" {
  name                = "roomcast-ready"
  check_interval_sec  = 5
  timeout_sec         = 3
  healthy_threshold   = 2
  unhealthy_threshold = 2
  http_health_check {
    port         = 8080
    request_path = "/readyz"
  }
}

# Machines are replaced when a node does not answer, not when it is not ready: without Redis none is, and new ones would
# not help.
resource "google_compute_health_check" "alive" {
  name                = "roomcast-alive"
  check_interval_sec  = 10
  timeout_sec         = 5
  unhealthy_threshold = 6
  http_health_check {
    port         = 8080
    request_path = "/healthz"
  }
}

resource "google_compute_firewall" "balancer" {
  name          = "roomcast-balancer"
  network       = var.network
  source_ranges = ["130.211.0.0/22", "35.191.0.0/16"]
  target_tags   = ["roomcast"]
  allow {
    protocol = "tcp"
    ports    = ["8080"]
  }
}

resource "google_compute_region_instance_group_manager" "nodes" {
  name               = "roomcast"
  base_instance_name = "roomcast"
  version {
    instance_template = google_compute_instance_template.node.id
  }
  named_port {
    name = "http"
    port = 8080
  }
  auto_healing_policies {
    health_check      = google_compute_health_check.alive.id
    initial_delay_sec = 180
  }
  update_policy {
    type                  = "PROACTIVE"
    minimal_action        = "REPLACE"
    max_surge_fixed       = 3
    max_unavailable_fixed = 0
  }
}

resource "google_compute_region_autoscaler" "nodes" {
  name   = "roomcast"
  target = google_compute_region_instance_group_manager.nodes.id
  autoscaling_policy {
    min_replicas    = var.nodes_min
    max_replicas    = var.nodes_max
    cooldown_period = 120
    metric {
      name   = "prometheus.googleapis.com/roomcast_connections/gauge"
      type   = "GAUGE"
      target = var.connections_per_node
    }
    cpu_utilization {
      target = 0.6
    }
    # Each node that goes makes its clients come back elsewhere.
    scale_in_control {
      max_scaled_in_replicas {
        fixed = 1
      }
      time_window_sec = 600
    }
  }
}

resource "google_compute_backend_service" "nodes" {
  name                            = "roomcast"
  protocol                        = "HTTP"
  port_name                       = "http"
  load_balancing_scheme           = "EXTERNAL_MANAGED"
  session_affinity                = "NONE"
  health_checks                   = [google_compute_health_check.ready.id]
  connection_draining_timeout_sec = 60
  # The longest life of a WebSocket.
  timeout_sec = 86400
  backend {
    group           = google_compute_region_instance_group_manager.nodes.instance_group
    balancing_mode  = "UTILIZATION"
    max_utilization = 0.8
  }
}

resource "google_compute_url_map" "all" {
  name            = "roomcast"
  default_service = google_compute_backend_service.nodes.id
}

resource "google_compute_managed_ssl_certificate" "page" {
  name = "roomcast"
  managed {
    domains = [var.domain]
  }
}

resource "google_compute_target_https_proxy" "page" {
  name             = "roomcast"
  url_map          = google_compute_url_map.all.id
  ssl_certificates = [google_compute_managed_ssl_certificate.page.id]
}

resource "google_compute_global_address" "page" {
  name = "roomcast"
}

resource "google_compute_global_forwarding_rule" "page" {
  name                  = "roomcast"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.page.id
  port_range            = "443"
  target                = google_compute_target_https_proxy.page.id
}

output "address" {
  value = google_compute_global_address.page.address
}

output "redis" {
  value = "redis://${google_redis_instance.rooms.host}:${google_redis_instance.rooms.port}"
}

output "topic" {
  value = google_pubsub_topic.pushes.id
}
