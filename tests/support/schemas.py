"""What a Compose file and Kubernetes' objects may have, as far as deploy/ uses it.

A schema is a type; or a mapping of keys (`*`: any) to schemas; or a list with the one of its items.
"""

from __future__ import annotations

from typing import Any

TEXTS: Any = [str]
COMPOSE: Any = {
    "name": str,
    "services": {
        "*": {
            "build": {"context": str, "dockerfile": str},
            "image": str,
            "environment": {"*": str},
            "secrets": TEXTS,
            "volumes": TEXTS,
            "restart": str,
            "read_only": bool,
            "cap_drop": TEXTS,
            "security_opt": TEXTS,
            "mem_limit": str,
            "group_add": TEXTS,
            "depends_on": {"*": {"condition": str}},
        }
    },
    "secrets": {"*": {"file": str}},
    "volumes": {"*": {"driver": str, "driver_opts": {"*": str}}},
}
META: Any = {"name": str, "labels": {"*": str}}
PROBE: Any = {
    "exec": {"command": TEXTS},
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
CONTAINER: Any = {
    "name": str,
    "image": str,
    "restartPolicy": str,
    "args": TEXTS,
    "ports": [{"name": str, "containerPort": int}],
    "startupProbe": PROBE,
    "livenessProbe": PROBE,
    "resources": {"requests": {"cpu": str, "memory": str}, "limits": {"memory": str}},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": TEXTS},
    },
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
KINDS: Any = {
    "Secret": {"type": str, "stringData": {"*": str}},
    "ConfigMap": {"data": {"*": str}},
    "Deployment": {
        "spec": {
            "replicas": int,
            "selector": {"matchLabels": {"*": str}},
            "template": {
                "metadata": META,
                "spec": {
                    "automountServiceAccountToken": bool,
                    "securityContext": {
                        "runAsNonRoot": bool,
                        "runAsUser": int,
                        "runAsGroup": int,
                        "fsGroup": int,
                        "seccompProfile": {"type": str},
                    },
                    "initContainers": [CONTAINER],
                    "containers": [CONTAINER],
                    "volumes": [
                        {
                            "name": str,
                            "emptyDir": {"medium": str, "sizeLimit": str},
                            "configMap": {"name": str},
                            "secret": {"secretName": str, "defaultMode": int},
                        }
                    ],
                },
            },
        }
    },
}


def wrong(value: Any, schema: Any, where: str = "") -> list[str]:
    """What does not fit."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        found = []
        for key, inner in value.items():
            if key in schema or "*" in schema:
                found += wrong(inner, schema.get(key, schema.get("*")), f"{where}.{key}")
            else:
                found.append(f"{where} has no {key}")
        return found
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [
            text for n, item in enumerate(value) for text in wrong(item, schema[0], f"{where}{n}")
        ]
    return [] if type(value) is schema else [f"{where} is a {type(value).__name__}"]
