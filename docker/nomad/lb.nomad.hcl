# HAProxy behind safe_reload as a Nomad job: `nomad job run lb.nomad.hcl`. docs/where-it-runs.md is about it.

job "lb" {
  # one on each client
  type = "system"

  group "lb" {
    network {
      port "http" {
        static = 80
        to     = 8080
      }
    }

    task "haproxy" {
      driver = "docker"
      user   = "65534"

      config {
        image = "haproxy-safe-reload:dev"
        # /local is the task's local/, which Nomad mounts as a folder. Do not mount the rendered file by itself: Nomad
        # replaces it, and the container would keep the old one.
        args            = ["--vips", "*:8080:FD_HTTP", "-f", "/local/haproxy/haproxy.cfg"]
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["ALL"]
        security_opt    = ["no-new-privileges:true"]

        # the folder of the control socket
        mount {
          type   = "tmpfs"
          target = "/run/safe_reload"
          tmpfs_options {
            size = 1048576
          }
        }
      }

      template {
        destination = "local/haproxy/haproxy.cfg"
        # safe_reload notices the file. Nomad's default, "restart", refuses clients.
        change_mode = "noop"
        data        = <<-EOT
          defaults
              mode http
              timeout connect 5s
              timeout client 30s
              timeout server 30s
              option idle-close-on-response
              option dontlognull

          frontend web
              bind "fd@$${FD_HTTP}"
              default_backend web

          backend web
          {{ range nomadService "web" }}
              server {{ .Address }}:{{ .Port }} {{ .Address }}:{{ .Port }} check
          {{ end }}
        EOT
      }

      # Longer than the longest request that may finish. Nomad's default is to kill after 5 s; the client's
      # `max_kill_timeout`, 30 s unless you set it, limits this.
      kill_timeout = "30s"
    }
  }
}
