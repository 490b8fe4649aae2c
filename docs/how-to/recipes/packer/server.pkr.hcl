# An image of Debian 13 with hwsigner and without a key: each machine makes its own at its first boot.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "~> 1"
    }
  }
}

variable "wheel" {
  type        = string
  description = "path of hwsigner's wheel"
}

variable "tpm_wheel" {
  type        = string
  description = "path of the wheel of tpm2-pytss that comes with it"
}

variable "base" {
  type        = string
  description = "path or URL of a Debian 13 cloud image"
}

variable "base_checksum" {
  type = string
}

source "qemu" "server" {
  iso_url          = var.base
  iso_checksum     = var.base_checksum
  disk_image       = true
  disk_size        = "8G"
  format           = "qcow2"
  output_directory = "build"
  headless         = true
  ssh_username     = "root"
  ssh_agent_auth   = true
  shutdown_command = "systemctl poweroff"
}

build {
  sources = ["source.qemu.server"]

  provisioner "file" {
    sources     = [var.wheel, var.tpm_wheel]
    destination = "/var/cache/"
  }

  provisioner "file" {
    source      = "${path.root}/hwsigner-first-boot.service"
    destination = "/etc/systemd/system/hwsigner-first-boot.service"
  }

  provisioner "shell" {
    script = "${path.root}/provision.sh"
  }
}
