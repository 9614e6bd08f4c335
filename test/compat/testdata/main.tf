# A function with a version, an alias and a reservation, as a person writes it. No permissions: those need policies.
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

variable "archive" {}
variable "name" {}
variable "runtime" {}
variable "timeout" {}
variable "message" {}

provider "aws" {
  skip_metadata_api_check = true
}

resource "aws_lambda_function" "f" {
  function_name                  = var.name
  role                           = "arn:aws:iam::123456789012:role/compat"
  handler                        = "index.handler"
  runtime                        = var.runtime
  filename                       = var.archive
  source_code_hash               = filebase64sha256(var.archive)
  timeout                        = var.timeout
  memory_size                    = 256
  reserved_concurrent_executions = 5
  publish                        = true
  description                    = "made by Terraform"

  environment {
    variables = { MESSAGE = var.message }
  }
  ephemeral_storage {
    size = 1024
  }
  logging_config {
    log_format            = "JSON"
    application_log_level = "DEBUG"
    system_log_level      = "WARN"
  }
  tags = { team = "a b" }
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  description      = "what callers use"
  function_name    = aws_lambda_function.f.function_name
  function_version = aws_lambda_function.f.version
}

output "alias" {
  value = aws_lambda_alias.live.arn
}

output "version" {
  value = aws_lambda_function.f.version
}
